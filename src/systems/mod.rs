//! Means that several components share.

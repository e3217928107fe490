//! What stands in the way of opening a store.

use super::ballast;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database has schema version {found}, this program knows {known}: install the newer program, or give another `store.path`"
    )]
    Newer { found: usize, known: usize },
    #[error("the file is a database, but not one of Tidegate's: give another `store.path`")]
    Foreign,
    #[error("another process has the database open")]
    Locked,
    /// It may work later: the disk is full, or read-only.
    #[error("{0}")]
    Later(String),
    /// It is set aside.
    #[error("the database is broken: {0}")]
    Broken(String),
    #[error("the database cannot be used safely: {0}")]
    Unsafe(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => OpenError::Locked,
            _ => OpenError::Sqlite(error),
        }
    }
}

/// Linux's number for an input or output error.
const EIO: i32 = 5;

impl OpenError {
    /// What it means where the disk takes no writes.
    pub(super) fn seen(self, cause: ballast::Cause) -> Self {
        use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
        let code = if let OpenError::Sqlite(error) = &self { error.sqlite_error_code() } else { None };
        let full = code == Some(DiskFull);
        let failed =
            code == Some(SystemIoFailure) || matches!(&self, OpenError::Io(e) if e.raw_os_error() == Some(EIO));
        match cause {
            ballast::Cause::Space => OpenError::Later(format!("the disk is full: {self}")),
            ballast::Cause::ReadOnly => OpenError::Later(format!("the file system is read-only: {self}")),
            ballast::Cause::Other if full => OpenError::Later(format!("the disk is full: {self}")),
            ballast::Cause::Other if failed => OpenError::Later(format!("the disk failed: {self}")),
            ballast::Cause::Other => self,
        }
    }
}

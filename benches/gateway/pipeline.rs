pub fn table(_quick: bool) {}

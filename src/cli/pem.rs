//! Files of certificates and keys that flags name. What is wrong with one says the flag, the file and why.

use std::{fmt::Display, fs, path::Path};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// A file in PEM.
pub(super) struct Pem<'a> {
    flag: &'a str,
    file: &'a Path,
    pub(super) content: Vec<u8>,
}

impl<'a> Pem<'a> {
    pub(super) fn read(flag: &'a str, file: &'a Path) -> Result<Self, String> {
        match fs::read(file) {
            Ok(content) => Ok(Self { flag, file, content }),
            Err(error) => Err(format!("{flag}: cannot read {}: {error}", file.display())),
        }
    }

    /// Its certificates, which are to be of `what`: at least one.
    pub(super) fn certificates(&self, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.content).collect();
        match all {
            Ok(all) if all.is_empty() => Err(self.without(what, "it has none")),
            Ok(all) => Ok(all),
            Err(error) => Err(self.without(what, error)),
        }
    }

    /// What to say of it if it has none of `what`.
    pub(super) fn without(&self, what: &str, why: impl Display) -> String {
        let Self { flag, file, .. } = self;
        format!("{flag}: no {what} in PEM format in {}: {why}", file.display())
    }
}

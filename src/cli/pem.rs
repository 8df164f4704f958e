//! Reads the PEM files that flags name. Errors name the flag, the file and the reason.

use std::{fmt::Display, fs, path::Path};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

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

    /// Parses its certificates, of which there has to be one; `what` describes them in errors.
    pub(super) fn certificates(&self, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.content).collect();
        match all {
            Ok(all) if all.is_empty() => Err(self.missing(what, "it has none")),
            Ok(all) => Ok(all),
            Err(error) => Err(self.missing(what, error)),
        }
    }

    /// The error that the file has no usable `what`.
    pub(super) fn missing(&self, what: &str, why: impl Display) -> String {
        let Self { flag, file, .. } = self;
        format!("{flag}: no {what} in PEM format in {}: {why}", file.display())
    }
}

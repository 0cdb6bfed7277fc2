//! Certificates for tests of TLS, made with `openssl`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use tempfile::TempDir;

/// Two authorities, and a server's certificate for `localhost` by the first.
pub struct Certificates(TempDir);

impl Certificates {
    /// Makes them; they hold for two days.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for name in ["ca", "other"] {
            let files = format!("-keyout {name}.key -out {name}.crt -subj /CN={name}");
            openssl(folder.path(), &format!("req -x509 -days 2 {key} {files}"));
        }
        let request = "-keyout server.key -out server.csr -subj /CN=localhost";
        let names = "-addext subjectAltName=DNS:localhost";
        openssl(folder.path(), &format!("req {key} {request} {names}"));
        let signed =
            "-CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy -out server.crt";
        openssl(folder.path(), &format!("x509 -req -days 2 -in server.csr {signed}"));
        // Servers that run as a user of their own read them as well; they are worth nothing.
        for (name, mode) in [("", 0o755), ("server.key", 0o644)] {
            let permissions = Permissions::from_mode(mode);
            fs::set_permissions(folder.path().join(name), permissions).unwrap();
        }
        Self(folder)
    }

    /// The path of `ca.crt`, `other.crt`, `server.crt` or `server.key`.
    pub fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

fn openssl(folder: &Path, words: &str) {
    let done = Command::new("openssl").args(words.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

//! TLS: who we trust, and who we are. TLS 1.2 and 1.3 through rustls with ring; the files are PEM.
//!
//! Files are read when a configuration is made, which components do at each connection, so that a renewed certificate
//! is used without a restart.

use crate::{
    budget::Span,
    clock::{self, Quality},
};
use anyhow::{Context, anyhow, bail};
use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A whole bundle of public roots has 230 KB; anything much larger is not what was meant (a device, a disk image).
const MAX_FILE: u64 = 4 << 20;

/// How the gateway speaks TLS to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTls {
    /// PEM file of the authorities that may vouch for the server. Default: those that browsers trust (Mozilla's list).
    pub ca: Option<PathBuf>,
    /// PEM file of the gateway's own certificate, with its chain. Needs `key`.
    pub cert: Option<PathBuf>,
    /// PEM file of the certificate's private key, not encrypted.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must have. Default: the host that is connected to.
    pub server_name: Option<String>,
}

/// How the gateway serves TLS.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// PEM file of the server's certificate, with its chain.
    pub cert: PathBuf,
    /// PEM file of the certificate's private key, not encrypted.
    pub key: PathBuf,
    /// PEM file of the authorities that vouch for clients. With it, every client must show a certificate.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

impl ClientTls {
    /// What can be seen to be wrong without opening a file: the field, and why. For constructors.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.cert, &self.key, &self.server_name) {
            (Some(_), None, _) => Err(("cert", "a certificate needs its private key: set `key` too".into())),
            (None, Some(_), _) => Err(("key", "a private key needs its certificate: set `cert` too".into())),
            (_, _, Some(name)) => match ServerName::try_from(name.as_str()) {
                Ok(_) => Ok(()),
                Err(_) => Err(("server_name", format!("`{name}` is neither a host name nor an IP address"))),
            },
            _ => Ok(()),
        }
    }

    /// The name to expect of a server that is reached under `host` (an IPv6 address may stand in brackets).
    pub fn server_name(&self, host: &str) -> anyhow::Result<ServerName<'static>> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        ServerName::try_from(name.to_owned()).map_err(|_| anyhow!("`{name}` is neither a host name nor an IP address"))
    }
}

/// Reads the files and makes what a TLS client needs. The error names the file.
pub fn client_config(tls: &ClientTls) -> anyhow::Result<Arc<ClientConfig>> {
    client_config_by(tls, Arc::new(WallClock))
}

fn client_config_by(tls: &ClientTls, clock: Arc<dyn TimeProvider>) -> anyhow::Result<Arc<ClientConfig>> {
    let roots = match &tls.ca {
        Some(file) => authorities(file)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let builder = ClientConfig::builder_with_details(provider(), clock)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).with_context(|| misfit(cert, key))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => bail!("`cert` and `key` go together"),
    };
    Ok(Arc::new(config))
}

/// Reads the files and makes what a TLS server needs. The error names the file.
pub fn server_config(tls: &ServerTls) -> anyhow::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(WallClock));
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match &tls.client_ca {
        Some(file) => {
            let roots = Arc::new(authorities(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.with_context(|| format!("`{}`", file.display()))?)
        }
        None => builder.with_no_client_auth(),
    };
    let config = builder
        .with_single_cert(certificates(&tls.cert)?, private_key(&tls.key)?)
        .with_context(|| misfit(&tls.cert, &tls.key))?;
    Ok(Arc::new(config))
}

/// Speaks TLS with a client that connected, within a time. The error says why not; nothing, where it only went away, as who looks
/// whether a port is open does.
pub async fn accept(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, Option<String>> {
    match timeout(limit, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(None),
        Ok(Err(error)) => Err(Some(failure(&error))),
        Err(_) => Err(Some(format!("no handshake within {}", Span(limit)))),
    }
}

/// Why a handshake failed. Where a certificate's dates are the reason, and nobody has set the clock since boot, that is said: a
/// board without a battery begins in 1970, and is not let in before it knows the time.
pub fn failure(error: &(dyn std::error::Error + 'static)) -> String {
    let clock = clock::stamp();
    let dates = cause(error).is_some_and(|error| {
        use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        let rustls::Error::InvalidCertificate(why) = error else { return false };
        matches!(why, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
    });
    match dates && clock.quality != Quality::Synced {
        true => format!("{error}; the clock says {} and was not set since boot", clock::rfc3339(clock.wall_ms)),
        false => error.to_string(),
    }
}

/// What rustls says, within the errors around it.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.map_or(error.downcast_ref(), |inner| inner.downcast_ref())
}

/// The time against which certificates are checked: rustls' own reading panics on armv7 musl after January 2038.
#[derive(Debug)]
pub(super) struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(clock::wall_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn misfit(cert: &Path, key: &Path) -> String {
    format!("the private key `{}` cannot be used with the certificate `{}`", key.display(), cert.display())
}

fn authorities(file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for (i, cert) in certificates(file)?.into_iter().enumerate() {
        roots.add(cert).with_context(|| format!("`{}`: certificate {} in it", file.display(), i + 1))?;
    }
    Ok(roots)
}

/// The certificates of a PEM file.
pub fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let certs = certs.with_context(|| format!("`{}`: not a PEM file", file.display()))?;
    if certs.is_empty() {
        bail!("`{}`: no certificate in it (expected PEM, `-----BEGIN CERTIFICATE-----`)", file.display());
    }
    Ok(certs)
}

fn private_key(file: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|e| match e {
        pem::Error::NoItemsFound => {
            anyhow!("`{}`: no private key in it (expected PEM, PKCS#8, PKCS#1 or SEC1, not encrypted)", file.display())
        }
        e => anyhow!("`{}`: not a PEM file: {e}", file.display()),
    })
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .with_context(|| format!("`{}`", file.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("`{}`: over {} MiB, which is no certificate", file.display(), MAX_FILE >> 20);
    }
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// A directory with an authority (`NAME-ca.pem`), and a certificate for localhost from it (`NAME.pem`, `NAME.key`).
    pub(crate) fn authority(dir: &Path, name: &str) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With the same name as the certificate's, OpenSSL would take that one for self-signed.
        params.distinguished_name.push(DnType::CommonName, format!("authority {name}"));
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &ca).unwrap();
        std::fs::write(dir.join(format!("{name}-ca.pem")), ca.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    async fn talk(server: &ServerTls, client: &ClientTls) -> anyhow::Result<()> {
        talk_by(server, client, Arc::new(WallClock)).await
    }

    async fn talk_by(server: &ServerTls, client: &ClientTls, clock: Arc<dyn TimeProvider>) -> anyhow::Result<()> {
        let acceptor = TlsAcceptor::from(server_config(server)?);
        let connector = tokio_rustls::TlsConnector::from(client_config_by(client, clock)?);
        let (a, b) = duplex(1 << 16);
        let serve = async {
            let mut stream = acceptor.accept(a).await?;
            stream.write_all(b"x").await?;
            stream.shutdown().await
        };
        let ask = async {
            let mut stream = connector.connect(client.server_name("localhost")?, b).await?;
            stream.read_u8().await?;
            anyhow::Ok(())
        };
        let (served, asked) = tokio::join!(serve, ask);
        asked.and(served.map_err(Into::into))
    }

    #[tokio::test]
    async fn each_side_checks_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Some(dir.path().join(name));
        authority(dir.path(), "a");
        authority(dir.path(), "b");
        let open = ServerTls { cert: at("a.pem").unwrap(), key: at("a.key").unwrap(), client_ca: None };
        let strict = ServerTls { client_ca: at("a-ca.pem"), ..open.clone() };
        let plain = ClientTls { ca: at("a-ca.pem"), ..ClientTls::default() };
        let known = ClientTls { cert: at("a.pem"), key: at("a.key"), ..plain.clone() };
        let stranger = ClientTls { cert: at("b.pem"), key: at("b.key"), ..plain.clone() };
        let fooled = ClientTls { ca: at("b-ca.pem"), ..ClientTls::default() };
        let public = ClientTls::default();
        let renamed = ClientTls { server_name: Some("elsewhere".into()), ..plain.clone() };
        for (what, server, client, want) in [
            ("no certificate asked for", &open, &plain, true),
            ("one shown all the same", &open, &known, true),
            ("a known client", &strict, &known, true),
            ("an anonymous client", &strict, &plain, false),
            ("a client of another authority", &strict, &stranger, false),
            ("a server of another authority", &open, &fooled, false),
            ("a server that no public authority knows", &open, &public, false),
            ("a server of another name", &open, &renamed, false),
        ] {
            let got = talk(server, client).await;
            assert_eq!(got.is_ok(), want, "{what}: {got:?}");
        }
    }

    /// A clock that stands still: seconds since 1970.
    #[derive(Debug)]
    struct Stopped(u64);

    impl TimeProvider for Stopped {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
        }
    }

    /// A board without a battery waits until somebody sets its clock; it neither trusts whoever answers nor gives up.
    #[tokio::test]
    async fn a_clock_that_nobody_has_set_makes_no_certificate_valid() {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path(), "a");
        let at = |name: &str| dir.path().join(name);
        let server = ServerTls { cert: at("a.pem"), key: at("a.key"), client_ca: None };
        let client = ClientTls { ca: Some(at("a-ca.pem")), ..ClientTls::default() };
        for (seconds, want) in [(3, "certificate not valid yet"), (1_800_000_000, ""), (1 << 40, "certificate expired")]
        {
            let told = talk_by(&server, &client, Arc::new(Stopped(seconds))).await;
            let told = told.map_or_else(|error| failure(error.as_ref()), |()| String::new());
            assert!(told.contains(want) && told.is_empty() == want.is_empty(), "{seconds}: {told}");
            let unset = clock::stamp().quality != Quality::Synced && !want.is_empty();
            assert_eq!(told.contains("was not set since boot"), unset, "{seconds}: {told}");
        }
    }

    #[test]
    fn an_error_names_the_file_and_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path(), "a");
        authority(dir.path(), "b");
        std::fs::write(dir.path().join("empty"), "").unwrap();
        std::fs::write(dir.path().join("torn"), "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
            .unwrap();
        std::fs::write(dir.path().join("large"), vec![b'x'; MAX_FILE as usize + 1]).unwrap();
        for (ca, cert, key, want) in [
            ("none", "a.pem", "a.key", "none`: No such file"),
            ("empty", "a.pem", "a.key", "empty`: no certificate in it"),
            ("a.key", "a.pem", "a.key", "a.key`: no certificate in it"),
            ("torn", "a.pem", "a.key", "torn`: not a PEM file"),
            ("large", "a.pem", "a.key", "large`: over 4 MiB"),
            (".", "a.pem", "a.key", "Is a directory"),
            ("a-ca.pem", "none", "a.key", "none`: No such file"),
            ("a-ca.pem", "a.pem", "a.pem", "a.pem`: no private key in it"),
            ("a-ca.pem", "a.pem", "b.key", "b.key` cannot be used with the certificate `"),
        ] {
            let at = |name: &str| dir.path().join(name);
            let client = ClientTls { ca: Some(at(ca)), cert: Some(at(cert)), key: Some(at(key)), server_name: None };
            let server = ServerTls { cert: at(cert), key: at(key), client_ca: Some(at(ca)) };
            for error in [client_config(&client).err(), server_config(&server).err()] {
                let error = error.map(|e| format!("{e:#}")).unwrap_or_default();
                assert!(error.contains(want), "{ca} {cert} {key}: {error}");
            }
        }
    }

    #[test]
    fn a_constructor_finds_what_needs_no_file() {
        for (json, want) in [
            (r#"{}"#, None),
            (r#"{"cert":"a","key":"b","server_name":"::1"}"#, None),
            (r#"{"cert":"a"}"#, Some("cert")),
            (r#"{"key":"a"}"#, Some("key")),
            (r#"{"server_name":"a b"}"#, Some("server_name")),
        ] {
            let tls: ClientTls = serde_json::from_str(json).unwrap();
            assert_eq!(tls.check().err().map(|(field, _)| field), want, "{json}");
        }
        assert!(serde_json::from_str::<ClientTls>(r#"{"cacert":"a"}"#).is_err());
        assert!(ClientTls::default().server_name("[::1]").is_ok());
    }
}

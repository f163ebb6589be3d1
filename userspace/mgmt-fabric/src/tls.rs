// SPDX-License-Identifier: MIT OR Apache-2.0

//! TLS 1.3 with certificates on both sides, and who a peer is by its certificate.

use crate::Host;
use crate::certificates::{CA, HOST, HOST_KEY, REVOKED};
use anyhow::{Context, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use webpki::{CertRevocationList, OwnedCertRevocationList};

/// Both sides of TLS for one host.
#[derive(Clone)]
pub struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) connector: TlsConnector,
    own: CertificateDer<'static>,
    revoked: Arc<Vec<OwnedCertRevocationList>>,
}

impl Tls {
    /// Reads the files that [`issue`](crate::certificates::issue) made.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = |name| directory.join(name);
        let what = |name| format!("{}", directory.join(name).display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path(CA)).with_context(|| what(CA))? {
            roots.add(certificate?)?;
        }
        let roots = Arc::new(roots);
        let chain: Vec<_> = CertificateDer::pem_file_iter(path(HOST))
            .and_then(Iterator::collect)
            .with_context(|| what(HOST))?;
        let own = chain.first().with_context(|| what(HOST))?.clone();
        let key = PrivateKeyDer::from_pem_file(path(HOST_KEY)).with_context(|| what(HOST_KEY))?;
        // Without the file, none is revoked.
        let lists: Vec<CertificateRevocationListDer<'static>> = if path(REVOKED).exists() {
            CertificateRevocationListDer::pem_file_iter(path(REVOKED))
                .and_then(Iterator::collect)
                .with_context(|| what(REVOKED))?
        } else {
            Vec::new()
        };
        let revoked: Result<_, _> = lists
            .iter()
            .map(|list| OwnedCertRevocationList::from_der(list))
            .collect();
        let revoked = revoked.with_context(|| what(REVOKED))?;
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(lists.clone())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status();
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients.build()?)
            .with_single_cert(chain.clone(), key.clone_key())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(servers.build()?)
            .with_client_auth_cert(chain, key)?;
        Ok(Self {
            acceptor: Arc::new(server).into(),
            connector: Arc::new(client).into(),
            own,
            revoked: Arc::new(revoked),
        })
    }

    /// Whether a certificate, whose chain was verified when it was not yet, is revoked.
    pub(crate) fn is_revoked(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
            return true;
        };
        let lists = self.revoked.iter().cloned();
        lists.map(CertRevocationList::from).any(|list| {
            let found = list.find_serial(certificate.serial());
            !matches!(found, Ok(None))
        })
    }

    /// Whether this host's own certificate is for this address.
    pub fn is_for(&self, host: Host) -> bool {
        is_of(&self.own, host)
    }
}

/// Whether a certificate, whose chain was verified, is for this host.
pub(crate) fn is_of(certificate: &CertificateDer<'_>, host: Host) -> bool {
    let name = ServerName::IpAddress(host.ip().into());
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

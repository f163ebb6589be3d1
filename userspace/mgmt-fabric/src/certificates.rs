// SPDX-License-Identifier: MIT OR Apache-2.0

//! Certificates: an authority of one's own, and one certificate for each host, which binds its key to
//! its address (MVM_IP).

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The authority's certificate, which every host has.
pub const CA: &str = "ca.pem";
/// The authority's key, which stays where it is.
pub const CA_KEY: &str = "ca.key";
/// A host's certificate.
pub const HOST: &str = "host.pem";
/// Its key.
pub const HOST_KEY: &str = "host.key";

/// Writes a new file that others may not read if it is `secret`.
fn write(path: &Path, text: &str, secret: bool) -> Result<()> {
    let mode = if secret { 0o600 } else { 0o644 };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Makes an authority in this directory: [`CA`] and [`CA_KEY`], which must not be there.
pub fn init(directory: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(&directory.join(CA_KEY), &key.serialize_pem(), true)?;
    write(&directory.join(CA), &certificate.pem(), false)
}

/// Makes a key and a certificate for the host with this address: [`HOST`], [`HOST_KEY`] and a copy of
/// [`CA`] in the directory `to`.
pub fn issue(authority: &Path, ip: IpAddr, to: &Path) -> Result<()> {
    if ip.is_unspecified() {
        bail!("{ip} is no address of a host");
    }
    let ca = read(&authority.join(CA))?;
    let ca_key = KeyPair::from_pem(&read(&authority.join(CA_KEY))?)?;
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(ip.to_canonical())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params
        .distinguished_name
        .push(DnType::CommonName, ip.to_canonical().to_string());
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    fs::create_dir_all(to)?;
    write(&to.join(HOST_KEY), &key.serialize_pem(), true)?;
    write(&to.join(HOST), &certificate.pem(), false)?;
    if to != authority {
        write(&to.join(CA), &ca, false)?;
    }
    Ok(())
}

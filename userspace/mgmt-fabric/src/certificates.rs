// SPDX-License-Identifier: MIT OR Apache-2.0

//! Certificates: an authority of one's own, and one certificate for each host, which binds its key to
//! its address (MVM_IP).

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The authority's certificate, which every host has.
pub const CA: &str = "ca.pem";
/// The authority's key, which stays where it is.
pub const CA_KEY: &str = "ca.key";
/// A host's certificate.
pub const HOST: &str = "host.pem";
/// Its key.
pub const HOST_KEY: &str = "host.key";

/// The certificates that the authority has revoked: signed by it, and of interest to every host.
pub const REVOKED: &str = "revoked.pem";
/// The same, where the authority keeps them: a serial number and a time on each line.
const SERIALS: &str = "revoked";
/// Where the authority keeps what it has issued, by address.
const ISSUED: &str = "issued";

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
        if let Ok(revoked) = fs::read_to_string(authority.join(REVOKED)) {
            write(&to.join(REVOKED), &revoked, false)?;
        }
    }
    let record = issued(authority, ip);
    fs::create_dir_all(authority.join(ISSUED))?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&record)
        .and_then(|mut file| file.write_all(certificate.pem().as_bytes()))
        .with_context(|| format!("writing {}", record.display()))
}

/// The record of what was issued for an address.
fn issued(authority: &Path, ip: IpAddr) -> PathBuf {
    let name = format!("{}.pem", ip.to_canonical());
    authority.join(ISSUED).join(name)
}

/// Revokes all certificates that were issued for the host with this address so far: adds them to
/// [`REVOKED`] in the directory of the authority.
pub fn revoke(authority: &Path, ip: IpAddr) -> Result<()> {
    let record = issued(authority, ip);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = authority.join(SERIALS);
    let mut lines = if path.exists() {
        read(&path)?
    } else {
        String::new()
    };
    let text = read(&record).with_context(|| format!("nothing was issued for {ip}"))?;
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate?;
        let serial = webpki::EndEntityCert::try_from(&certificate)?;
        for byte in serial.serial() {
            write!(lines, "{byte:02x}")?;
        }
        writeln!(lines, " {now}")?;
    }
    replace(&path, &lines)?;
    replace(&authority.join(REVOKED), &list(authority, &lines)?)?;
    // What is issued for the address from now on is another host's, or has another key.
    fs::remove_file(&record).with_context(|| record.display().to_string())
}

/// Puts a file in the place of another, as a whole.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("writing {}", path.display()))
}

/// The signed list of these serial numbers.
fn list(authority: &Path, lines: &str) -> Result<String> {
    let ca_key = KeyPair::from_pem(&read(&authority.join(CA_KEY))?)?;
    let issuer = Issuer::from_ca_cert_pem(&read(&authority.join(CA))?, ca_key)?;
    let entry = |line: &str| {
        let (serial, time) = line.split_once(' ')?;
        let digits = serial.as_bytes().chunks(2);
        let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        Some(RevokedCertParams {
            serial_number: SerialNumber::from(bytes.collect::<Option<Vec<u8>>>()?),
            revocation_time: (UNIX_EPOCH + Duration::from_secs(time.parse().ok()?)).into(),
            reason_code: Some(RevocationReason::PrivilegeWithdrawn),
            invalidity_date: None,
        })
    };
    let revoked: Option<Vec<_>> = lines.lines().map(entry).collect();
    let revoked = revoked.with_context(|| format!("{SERIALS} cannot be read"))?;
    let list = CertificateRevocationListParams {
        this_update: SystemTime::now().into(),
        // It holds until there is another.
        next_update: date_time_ymd(9999, 12, 31),
        crl_number: SerialNumber::from(revoked.len() as u64),
        issuing_distribution_point: None,
        revoked_certs: revoked,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(&issuer)?.pem()?)
}

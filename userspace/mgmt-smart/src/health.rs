// SPDX-License-Identifier: MIT OR Apache-2.0

//! The health of a disk, of what smartctl says.

use anyhow::{Context, Result};
use mgmt_channel::{Error, Serial};
use serde::Serialize;
use serde_json::Value;

/// What `health` is answered with, as JSON. What a disk does not tell is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The disk's serial number.
    pub serial: String,
    /// The maker's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The version of its firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// `NVMe`, `ATA` or `SCSI`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The disk's own verdict; false: it fails, or is about to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
    /// °C.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<i64>,
    /// Hours that it was on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_on_hours: Option<u64>,
    /// How much of its life is used, percent; may be more than 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentage_used: Option<u64>,
    /// What is left of its spare blocks, percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_spare: Option<u64>,
    /// NVMe's bits (NVM Express base specification, SMART / health information log, byte 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_warning: Option<u64>,
    /// Errors that the disk could not correct.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_errors: Option<u64>,
    /// Sectors that were replaced (ATA, attribute 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reallocated_sectors: Option<u64>,
    /// Sectors that wait for that (ATA, attribute 197).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_sectors: Option<u64>,
}

impl Health {
    /// Of smartctl's JSON.
    pub fn new(value: &Value) -> Result<Self> {
        let text = |pointer| Some(value.pointer(pointer)?.as_str()?.trim().to_owned());
        let number = |pointer| value.pointer(pointer)?.as_u64();
        let attribute = |id: u64| {
            let table = value.pointer("/ata_smart_attributes/table")?.as_array()?;
            let is_it = |row: &&Value| row.get("id").and_then(Value::as_u64) == Some(id);
            table.iter().find(is_it)?.pointer("/raw/value")?.as_u64()
        };
        Ok(Self {
            serial: text("/serial_number").context("the disk tells no serial number")?,
            model: text("/model_name").or_else(|| text("/scsi_model_name")),
            firmware: text("/firmware_version"),
            protocol: text("/device/protocol"),
            passed: value
                .pointer("/smart_status/passed")
                .and_then(Value::as_bool),
            temperature_c: value
                .pointer("/temperature/current")
                .and_then(Value::as_i64),
            power_on_hours: number("/power_on_time/hours"),
            percentage_used: number("/nvme_smart_health_information_log/percentage_used"),
            available_spare: number("/nvme_smart_health_information_log/available_spare"),
            critical_warning: number("/nvme_smart_health_information_log/critical_warning"),
            media_errors: number("/nvme_smart_health_information_log/media_errors"),
            reallocated_sectors: attribute(5),
            pending_sectors: attribute(197),
        })
    }

    /// The disk's name as a component: characters that none may have become `_`.
    pub fn component(&self) -> Result<Serial> {
        let is_good = |c: &char| c.is_ascii_graphic();
        let name: String = self
            .serial
            .chars()
            .map(|c| if is_good(&c) { c } else { '_' })
            .collect();
        Serial::new(name.as_bytes())
            .map_err(Error::from)
            .with_context(|| format!("{:?} is no name for a component", self.serial))
    }

    /// Whether somebody should hear that it is not as it was: its verdict, its warnings, or its
    /// errors.
    pub fn is_news_after(&self, before: &Self) -> bool {
        let of = |health: &Self| {
            (
                health.passed,
                health.critical_warning,
                health.media_errors,
                health.reallocated_sectors,
                health.pending_sectors,
            )
        };
        of(self) != of(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nvme() -> Value {
        json!({
            "device": {"name": "/dev/nvme0", "protocol": "NVMe"},
            "model_name": "QEMU NVMe Ctrl",
            "serial_number": "DISK0001",
            "firmware_version": "10.0.8",
            "smart_status": {"passed": true, "nvme": {"value": 0}},
            "nvme_smart_health_information_log": {
                "critical_warning": 0, "temperature": 50, "available_spare": 100,
                "percentage_used": 0, "media_errors": 0,
            },
            "temperature": {"current": 50},
            "power_on_time": {"hours": 3},
        })
    }

    #[test]
    fn an_nvme_disk() {
        let health = Health::new(&nvme()).unwrap();
        let json = serde_json::to_value(&health).unwrap();
        assert_eq!(
            json,
            json!({
                "serial": "DISK0001", "model": "QEMU NVMe Ctrl", "firmware": "10.0.8",
                "protocol": "NVMe", "passed": true, "temperature_c": 50, "power_on_hours": 3,
                "percentage_used": 0, "available_spare": 100, "critical_warning": 0,
                "media_errors": 0,
            })
        );
    }

    #[test]
    fn an_ata_disk() {
        let health = Health::new(&json!({
            "serial_number": "WD-1 2",
            "ata_smart_attributes": {"table": [
                {"id": 5, "name": "Reallocated_Sector_Ct", "raw": {"value": 8}},
                {"id": 197, "name": "Current_Pending_Sector", "raw": {"value": 1}},
            ]},
        }))
        .unwrap();
        assert_eq!(
            (health.reallocated_sectors, health.pending_sectors),
            (Some(8), Some(1))
        );
        assert_eq!(health.component().unwrap().as_bytes(), b"WD-1_2");
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        assert!(Health::new(&json!({})).is_err());
        assert!(Health::new(&json!({"serial_number": 7})).is_err());
        assert!(Health::new(&json!([1])).is_err());
        let nameless = Health::new(&json!({"serial_number": " "})).unwrap();
        assert!(nameless.component().is_err());
        let long = "x".repeat(29);
        let long = Health::new(&json!({"serial_number": long})).unwrap();
        assert!(long.component().is_err());
    }

    #[test]
    fn a_warning_is_news_and_warmth_is_not() {
        let before = Health::new(&nvme()).unwrap();
        let mut after = before.clone();
        after.temperature_c = Some(60);
        assert!(!after.is_news_after(&before));
        after.critical_warning = Some(1);
        assert!(after.is_news_after(&before));
    }
}

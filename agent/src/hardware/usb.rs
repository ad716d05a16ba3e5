//! USB devices, cameras and servo adapters as `/sys` lists them below a root. Reads files and links;
//! what cannot be read is not there.

use std::fs;
use std::path::{Path, PathBuf};

use lekiwi_agent_core::hardware::UsbDevice;

/// Servo adapters: Waveshare's with a CH343, and clones with a CH340. Both chips are on other things as
/// well, so their servos are asked.
const ADAPTERS: [(&str, &str); 2] = [("1a86", "55d3"), ("1a86", "7523")];

/// Every device but hubs, by where it is plugged in.
pub(super) fn devices(root: &Path) -> Vec<UsbDevice> {
    let mut devices: Vec<UsbDevice> = entries(&root.join("sys/bus/usb/devices"))
        .iter()
        .filter(|folder| text(folder, "bDeviceClass").as_deref() != Some("09"))
        .filter_map(|folder| device(folder))
        .collect();
    devices.sort_by(|a, b| a.port.cmp(&b.port));
    devices
}

/// USB devices that capture pictures: a camera has several video nodes, of which those that capture are
/// the first of their interface; it counts once.
pub(super) fn cameras(root: &Path) -> Vec<UsbDevice> {
    let mut cameras: Vec<UsbDevice> = entries(&root.join("sys/class/video4linux"))
        .iter()
        .filter(|node| text(node, "index").as_deref() == Some("0"))
        .filter_map(|node| owner(node))
        .collect();
    cameras.sort_by(|a, b| a.port.cmp(&b.port));
    cameras.dedup();
    cameras
}

/// The serial ports of servo adapters.
pub(super) fn servo_ports(root: &Path) -> Vec<PathBuf> {
    let mut ports: Vec<PathBuf> = entries(&root.join("sys/class/tty"))
        .iter()
        .filter(|tty| {
            let name = tty.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ttyACM") || name.starts_with("ttyUSB")
        })
        .filter(|tty| {
            let is = |device: UsbDevice| {
                ADAPTERS.contains(&(device.vendor.as_str(), device.product.as_str()))
            };
            owner(tty).is_some_and(is)
        })
        .filter_map(|tty| Some(root.join("dev").join(tty.file_name()?)))
        .collect();
    ports.sort();
    ports
}

/// The USB device that a node of a class belongs to.
fn owner(node: &Path) -> Option<UsbDevice> {
    let interface = fs::canonicalize(node.join("device")).ok()?;
    interface.ancestors().find_map(device)
}

fn device(folder: &Path) -> Option<UsbDevice> {
    let name = [text(folder, "manufacturer"), text(folder, "product")];
    Some(UsbDevice {
        vendor: text(folder, "idVendor")?,
        product: text(folder, "idProduct")?,
        port: folder.file_name()?.to_string_lossy().into_owned(),
        name: name.into_iter().flatten().collect::<Vec<_>>().join(" "),
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn text(folder: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join(name)).ok()?;
    Some(text.trim().to_owned())
}

use proptest::prelude::*;

use super::*;

/// What a board's firmware sends.
fn packet(kind: u8, mac: [u8; 6], vendor: &[u8], guid: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&[0x26, 0xf3, 0x03, 0x39]);
    bytes[28..34].copy_from_slice(&mac);
    bytes[236..].copy_from_slice(&COOKIE);
    for (code, value) in [
        (53, &[kind][..]),
        (93, &[0, 0]),
        (94, &[1, 2, 1]),
        (97, guid),
        (60, vendor),
    ] {
        bytes.extend([code, u8::try_from(value.len()).unwrap()]);
        bytes.extend_from_slice(value);
    }
    bytes.push(255);
    bytes
}

const PI4_MAC: [u8; 6] = [0xdc, 0xa6, 0x32, 0x01, 0x36, 0xc2];
const CLIENT: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";

fn pi4_guid() -> Vec<u8> {
    let mut guid = vec![0];
    guid.extend(b"RPi4");
    guid.extend(0x00c0_3111_u32.to_le_bytes());
    guid.extend(&PI4_MAC[2..]);
    guid.extend(0xabcd_ef01_u32.to_le_bytes());
    guid
}

#[test]
fn boards_are_told_apart_by_what_they_send() {
    let sighting = |mac, guid: &[u8]| parse(&packet(1, mac, CLIENT, guid)).unwrap().sighting();
    let pi4 = sighting(PI4_MAC, &pi4_guid());
    assert_eq!(pi4.board.as_deref(), Some("pi4"));
    assert_eq!(pi4.serial.unwrap().as_str(), "abcdef01");
    assert_eq!(pi4.other_serial.unwrap().as_str(), "01efcdab");
    assert_eq!(pi4.mac.unwrap().to_string(), "dc:a6:32:01:36:c2");
    // A Pi 5, by an address that is not Raspberry Pi's.
    let mut guid = pi4_guid();
    guid[4] = b'5';
    guid[5..9].copy_from_slice(&0x00d0_4170_u32.to_le_bytes());
    let pi5 = sighting([2, 0, 0, 0, 0, 1], &guid);
    assert_eq!(pi5.board.as_deref(), Some("pi5"));
    // An old bootloader: the serial number four times.
    let mut guid = vec![0];
    (0..4).for_each(|_| guid.extend(0x1234_5678_u32.to_le_bytes()));
    assert_eq!(
        sighting(PI4_MAC, &guid).serial.unwrap().as_str(),
        "12345678"
    );
    // A Pi 3 says nothing about itself but its address.
    let mut guid = vec![0];
    guid.extend([0x44; 16]);
    let pi3 = sighting([0xb8, 0x27, 0xeb, 1, 2, 3], &guid);
    assert_eq!((pi3.serial, pi3.board), (None, None));
    assert_eq!(sighting(PI4_MAC, &[]).serial, None);
}

#[test]
fn who_is_not_answered() {
    let reason = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
    let good = packet(1, PI4_MAC, CLIENT, &pi4_guid());
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        reason(&bytes)
    };
    assert_eq!(
        reason(&good[..239]),
        "expected a DHCP request, got less than 240 bytes"
    );
    assert_eq!(
        reason(&good[..250]),
        "expected a DHCP request, got options without an end"
    );
    assert_eq!(
        reason(&good[..240]),
        "expected a DHCP request, got options without an end"
    );
    assert_eq!(
        change(236, 0),
        "expected a DHCP request, got no DHCP cookie"
    );
    assert_eq!(
        change(241, 200),
        "expected a DHCP request, got options without an end"
    );
    assert_eq!(
        change(240, 1),
        "expected a DHCP request, got no message type"
    );
    let other =
        |what: &str| format!("expected a Raspberry Pi that boots from the network, got {what}");
    assert_eq!(change(0, 2), other("another server's answer"));
    assert_eq!(change(1, 6), other("a network that is not Ethernet"));
    assert_eq!(change(24, 10), other("a relayed request"));
    assert_eq!(change(242, 4), other("another message"));
    assert_eq!(
        reason(&packet(1, PI4_MAC, b"android-dhcp", &[])),
        other("a machine that does not boot")
    );
    // A PC that boots from the network has the same class, and is somebody else's.
    assert_eq!(
        reason(&packet(1, [0x52, 0x54, 0, 1, 2, 3], CLIENT, &[7; 17])),
        other("another computer")
    );
}

#[test]
fn addresses_are_never_given_out_and_the_networks_server_is_left_alone() {
    let server = Ipv4Addr::new(10, 77, 0, 1);
    let discover = parse(&packet(1, PI4_MAC, CLIENT, &pi4_guid())).unwrap();
    let reply = discover.reply(SERVER_PORT, server).unwrap();
    assert_eq!(reply.to, Ipv4Addr::BROADCAST);
    assert_eq!(reply.bytes[16..20], [0; 4], "yiaddr");
    assert_eq!(reply.bytes[10..12], [0x80, 0]);
    assert!(reply.bytes.len() >= 300);
    let mut request = parse(&packet(3, PI4_MAC, CLIENT, &pi4_guid())).unwrap();
    assert_eq!(request.reply(SERVER_PORT, server), None);
    request.ciaddr = Ipv4Addr::new(10, 77, 0, 9);
    let reply = request.reply(PXE_PORT, server).unwrap();
    assert_eq!(
        (reply.to, &reply.bytes[240..243]),
        (request.ciaddr, &[53, 1, 5][..])
    );
}

proptest! {
    #[test]
    fn no_datagram_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_changed_datagram_is_too_odd(
        at in 0_usize..330, byte in any::<u8>(), length in 0_usize..330, port in any::<u16>()
    ) {
        let mut bytes = packet(1, PI4_MAC, CLIENT, &pi4_guid());
        if let Some(place) = bytes.get_mut(at) { *place = byte; }
        bytes.truncate(length);
        if let Ok(request) = parse(&bytes) {
            let _ = request.sighting();
            if let Some(reply) = request.reply(port, Ipv4Addr::LOCALHOST) {
                prop_assert_eq!(&reply.bytes[16..24], &[0; 8]);
                prop_assert!(reply.bytes.len() < 548);
            }
        }
    }
}

//! Packets as others send them: right ones come back as they went out, wrong and hostile ones are
//! refused in words, and nothing panics or grows.

use core::net::Ipv4Addr;

use lekiwi_protocol::discovery::name::Name;
use lekiwi_protocol::discovery::packet::{
    ANY, Data, MAX_PACKET, PTR, Packet, PacketError, Question, Record,
};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Name> {
    let label = proptest::collection::vec(any::<u8>(), 1..20);
    proptest::collection::vec(label, 0..6).prop_map(|labels| {
        let mut name = Name::default();
        for label in labels {
            assert!(name.push(&label), "fits");
        }
        name
    })
}

fn data() -> impl Strategy<Value = Data> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        any::<u32>().prop_map(|bits| Data::A(Ipv4Addr::from(bits))),
        name().prop_map(Data::Ptr),
        (any::<u16>(), name()).prop_map(|(port, target)| Data::Srv { port, target }),
        bytes().prop_map(Data::Txt),
        bytes().prop_map(|bytes| Data::Other { kind: 28, bytes }),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record =
        (name(), any::<bool>(), any::<u32>(), data()).prop_map(|(name, flush, ttl, data)| Record {
            name,
            flush,
            ttl,
            data,
        });
    proptest::collection::vec(record, 0..8)
}

fn packet() -> impl Strategy<Value = Packet> {
    let question =
        (name(), any::<u16>(), any::<bool>()).prop_map(|(name, kind, unicast)| Question {
            name,
            kind,
            unicast,
        });
    let questions = proptest::collection::vec(question, 0..4);
    let flags = (any::<u16>(), any::<bool>(), any::<bool>());
    (flags, questions, records(), records(), records()).prop_map(
        |((id, response, truncated), questions, answers, authorities, additionals)| Packet {
            id,
            response,
            truncated,
            questions,
            answers,
            authorities,
            additionals,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(packet in packet()) {
        prop_assert_eq!(Packet::parse(&packet.to_bytes()).expect("a packet"), packet);
    }

    #[test]
    fn noise_is_refused_or_read_and_never_more(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Packet::parse(&bytes);
    }

    /// A few wrong bytes in something right reach deeper than noise does.
    #[test]
    fn damage_is_refused_or_read(
        packet in packet(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = packet.to_bytes();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let _ = Packet::parse(&bytes);
        let _ = Packet::parse(&bytes[..length.index(bytes.len())]);
    }
}

/// A response with one record, from the byte where its name starts.
fn with_record(rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    bytes.extend_from_slice(rest);
    bytes
}

#[test]
fn hostile_packets_are_refused_in_words() {
    let a = [0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4];
    let after = |start: &[u8]| with_record(&[start, &a].concat());
    let cases = [
        (vec![], "expected more than 0 bytes"),
        (
            vec![0; MAX_PACKET + 1],
            "expected at most 9000 bytes, got 9001",
        ),
        (
            vec![0, 0, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "expected a plain query or response, got the flags 0x2800",
        ),
        (
            vec![0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0],
            "expected more than 12 bytes",
        ),
        // A pointer to itself, forward, into the header; a loop of two; a reserved length.
        (
            after(&[0xc0, 12]),
            "expected a name of at most 255 bytes that points only backwards at byte 12",
        ),
        (
            after(&[0xc0, 14]),
            "expected a name of at most 255 bytes that points only backwards at byte 12",
        ),
        (
            after(&[0xc0, 0]),
            "expected a name of at most 255 bytes that points only backwards at byte 12",
        ),
        (
            after(&[1, b'a', 0xc0, 12]),
            "expected a name of at most 255 bytes that points only backwards at byte 12",
        ),
        (
            after(&[0x40, 0]),
            "expected a name of at most 255 bytes that points only backwards at byte 12",
        ),
        // Five labels of 63.
        (
            after(&[[&[63][..], &[b'x'; 63]].concat().repeat(5), vec![0]].concat()),
            "expected a name of at most 255 bytes that points only backwards at byte 12",
        ),
        // An address of five bytes, and data past the end.
        (
            with_record(&[0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 5, 1, 2, 3, 4, 5]),
            "expected the data of record type 1 at byte 23, got 5 bytes",
        ),
        (
            with_record(&[0, 0, 16, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 1]),
            "expected more than 24 bytes",
        ),
    ];
    for (bytes, expected) in cases {
        let error: PacketError = Packet::parse(&bytes).expect_err("hostile");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_packet_of_pointers_grows_no_further_than_names_can() {
    // One name of 255 bytes, then as many records as fit whose names point to it.
    let long = [
        [&[63][..], &[b'x'; 63]].concat().repeat(3),
        [&[59][..], &[b'y'; 59]].concat(),
        vec![0],
    ]
    .concat();
    let mut bytes = with_record(&[&long[..], &[0, 99, 0, 1, 0, 0, 0, 9, 0, 0]].concat());
    let mut count: u16 = 1;
    while bytes.len() + 12 <= MAX_PACKET {
        bytes.extend([0xc0, 12, 0, 99, 0, 1, 0, 0, 0, 9, 0, 0]);
        count += 1;
    }
    bytes[6..8].copy_from_slice(&count.to_be_bytes());
    let packet = Packet::parse(&bytes).expect("legal, if odd");
    assert_eq!(packet.answers.len(), usize::from(count));
}

#[test]
fn a_query_of_avahi_is_read() {
    // As captured: PTR questions of _lekiwi._tcp.local.
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(b"\x07_lekiwi\x04_tcp\x05local\x00\x00\x0c\x00\x01");
    let packet = Packet::parse(&bytes).expect("a query");
    assert!(!packet.response);
    assert_eq!(
        packet.questions,
        [Question {
            name: Name::of(&["_lekiwi", "_tcp", "local"]),
            kind: PTR,
            unicast: false
        }]
    );
    assert_ne!(ANY, PTR);
}

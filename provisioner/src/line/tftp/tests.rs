use proptest::prelude::*;

use super::*;

fn read(name: &str, more: &[&str]) -> Vec<u8> {
    let mut datagram = vec![0, 1];
    for word in [name, "octet"].iter().chain(more) {
        datagram.extend(word.as_bytes());
        datagram.push(0);
    }
    datagram
}

fn ack(number: u16) -> Vec<u8> {
    head(opcode::ACK, number).to_vec()
}

#[test]
fn odd_requests_are_refused_and_told_why() {
    let refused = |datagram: &[u8]| parse(datagram).unwrap_err();
    for (datagram, message, code) in [
        (
            &b""[..],
            "expected a TFTP request, got less than 2 bytes",
            None,
        ),
        (
            b"\0",
            "expected a TFTP request, got less than 2 bytes",
            None,
        ),
        (b"\0\x01", "expected a TFTP request, got no end", None),
        (b"\0\x01abc", "expected a TFTP request, got no end", None),
        (b"\0\x01abc\0", "expected a TFTP request, got no mode", None),
        (
            b"\0\x04\0\x01",
            "expected a TFTP request, got another message",
            None,
        ),
        (
            b"\0\x02abc\0octet\0",
            "expected a request to read, got one to write",
            Some(2),
        ),
        (
            b"\0\x01abc\0netascii\0",
            "expected the octet mode, got \"netascii\"",
            Some(4),
        ),
        (
            b"\0\x01\xff\xfe\0octet\0",
            "expected the name of a file below the folder, got \"\u{fffd}\u{fffd}\"",
            Some(2),
        ),
    ] {
        let refused = refused(datagram);
        assert_eq!(refused.to_string(), message);
        assert_eq!(refused.datagram().map(|d| d[3]), code, "{message}");
    }
    let long = refused(&read(&"x".repeat(401), &[]));
    assert_eq!(
        long.to_string(),
        format!(
            "expected the name of a file below the folder, got {:?}",
            "x".repeat(80)
        )
    );
    assert_eq!(
        refused(b"\0\x02abc\0octet\0").datagram().unwrap(),
        b"\0\x05\0\x02expected a request to read, got one to write\0"
    );
}

#[test]
fn names_stay_below_the_root_and_say_who_asks() {
    for bad in [
        "",
        "/",
        "..",
        "../x",
        "a/../b",
        "a/..",
        "./a",
        "abcdef01/../../etc/passwd",
        "a/",
        "a\\b",
        "a\nb",
    ] {
        assert_eq!(
            places(bad).unwrap_err().to_string(),
            format!("expected the name of a file below the folder, got {bad:?}")
        );
    }
    let whose = |name: &str| {
        let places = places(name).unwrap();
        let candidates = places.candidates.iter().map(|p| p.display().to_string());
        (places.sighting, candidates.collect::<Vec<_>>())
    };
    let (who, where_) = whose("ABCDEF01/overlays/x.dtbo");
    assert_eq!(who.unwrap().serial.unwrap().as_str(), "abcdef01");
    assert_eq!(where_, ["abcdef01/overlays/x.dtbo", "overlays/x.dtbo"]);
    // A second root inside the name is none.
    let (_, where_) = whose("abcdef01//etc/passwd");
    assert_eq!(where_, ["abcdef01/etc/passwd", "etc/passwd"]);
    let (who, where_) = whose("/dc-a6-32-01-36-c2/start4.elf");
    assert_eq!(who.unwrap().mac.unwrap().to_string(), "dc:a6:32:01:36:c2");
    assert_eq!(where_, ["dc-a6-32-01-36-c2/start4.elf", "start4.elf"]);
    assert_eq!(
        whose("overlays/x.dtbo"),
        (None, vec!["overlays/x.dtbo".to_owned()])
    );
    assert_eq!(whose("abcdef01"), (None, vec!["abcdef01".to_owned()]));
}

#[test]
fn what_was_asked_for_is_agreed_to_within_limits() {
    let agreed = |options: &[&str]| {
        let request = parse(&read("f", options)).unwrap();
        match Transfer::new(&request, 5000).unwrap().start() {
            Next::Options(bytes) => String::from_utf8(bytes[2..].to_vec()).unwrap(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(agreed(&[]), "Blocks(1..=1)");
    // As the firmware asks.
    assert_eq!(
        agreed(&["tsize", "0", "blksize", "1024"]),
        "blksize\x001024\0tsize\x005000\0"
    );
    assert_eq!(
        agreed(&["BLKSIZE", "65464", "windowsize", "64", "timeout", "3"]),
        "blksize\x001468\0timeout\x003\0windowsize\x0032\0"
    );
    assert_eq!(
        agreed(&["blksize", "7", "windowsize", "0", "timeout", "0", "x", "y"]),
        "Blocks(1..=1)"
    );
    assert_eq!(agreed(&["blksize"]), "Blocks(1..=1)");
}

#[test]
fn files_beyond_the_last_block_number_are_refused() {
    let request = parse(&read("abcdef01/kernel8.img", &["blksize", "1468"])).unwrap();
    let max = 1468 * 65_535 - 1;
    assert!(Transfer::new(&request, max).is_ok());
    assert_eq!(
        Transfer::new(&request, max + 1).unwrap_err().to_string(),
        "expected \"abcdef01/kernel8.img\" to have at most 96205379 bytes in blocks of 1468, got 96205380: block numbers do not start over"
    );
}

#[test]
fn a_client_that_never_answers_is_given_up() {
    let request = parse(&read("f", &["blksize", "512"])).unwrap();
    let mut transfer = Transfer::new(&request, 5000).unwrap();
    assert!(matches!(transfer.start(), Next::Options(_)));
    for _ in 1..TRIES {
        assert!(matches!(transfer.timed_out(), Next::Options(_)));
    }
    assert_eq!(transfer.timed_out(), Next::Gone);
}

#[test]
fn old_acknowledgements_double_nothing_and_windows_go_on_where_they_broke() {
    let request = parse(&read("f", &["windowsize", "4"])).unwrap();
    let mut transfer = Transfer::new(&request, 512 * 9).unwrap();
    assert!(matches!(transfer.start(), Next::Options(_)));
    assert_eq!(transfer.receive(&ack(0)), Next::Blocks(1..=4));
    assert_eq!(transfer.receive(&ack(2)), Next::Blocks(3..=6));
    for old in [0, 1, 2, 7, 65_535] {
        assert_eq!(transfer.receive(&ack(old)), Next::Wait);
    }
    assert_eq!(transfer.receive(&ack(6)), Next::Blocks(7..=10));
    assert_eq!(transfer.range(10), (512 * 9, 0));
    assert_eq!(transfer.timed_out(), Next::Blocks(7..=10));
    assert_eq!(transfer.receive(&ack(10)), Next::Done);
    assert_eq!(
        transfer.receive(b"\0\x05\0\x08early terminate\0"),
        Next::Stopped("early terminate".into())
    );
    assert_eq!(transfer.receive(b"\0\x05"), Next::Wait);
}

/// A client that takes blocks in order and loses what `lossy` says.
fn fetch(size: usize, options: &[&str], lossy: &[bool]) -> Option<Vec<u8>> {
    let file: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
    let request = parse(&read("f", options)).unwrap();
    let mut transfer = Transfer::new(&request, size as u64).unwrap();
    let mut lost = lossy.iter().copied().chain(std::iter::repeat(false));
    let (mut got, mut arrived) = (Vec::new(), 0);
    let mut next = transfer.start();
    loop {
        next = match next {
            Next::Options(_) if lost.next()? => transfer.timed_out(),
            Next::Options(_) => transfer.receive(&ack(0)),
            Next::Blocks(numbers) => {
                let mut last = arrived;
                for number in numbers {
                    let (begin, length) = transfer.range(number);
                    if !lost.next()? && number == last + 1 {
                        last = number;
                        got.extend(&file[begin as usize..begin as usize + length]);
                    }
                }
                let heard = last > arrived && !lost.next()?;
                arrived = last;
                if heard {
                    transfer.receive(&ack(last))
                } else {
                    transfer.timed_out()
                }
            }
            Next::Done => return (got == file).then_some(got),
            Next::Wait => transfer.timed_out(),
            Next::Stopped(_) | Next::Gone => return None,
        };
        // A repeated window ends with an acknowledgement of what is there.
        if let Next::Blocks(numbers) = &next
            && *numbers.end() <= arrived
        {
            next = transfer.receive(&ack(arrived));
        }
    }
}

proptest! {
    #[test]
    fn no_datagram_is_too_odd(datagram in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(request) = parse(&datagram) {
            let _ = places(&request.name);
        }
        let request = parse(&read("f", &["windowsize", "3"])).unwrap();
        let mut transfer = Transfer::new(&request, 10_000).unwrap();
        let _ = transfer.start();
        let _ = transfer.receive(&datagram);
    }

    #[test]
    fn no_name_leaves_the_root(name in "[a-z./\\\\]{0,20}|([.]{1,2}/){0,4}[a-z]{1,3}|[0-9a-f]{8}/[./a-z]{0,8}") {
        if let Ok(places) = places(&name) {
            for path in places.candidates {
                prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))), "{path:?}");
            }
        }
    }

    #[test]
    fn what_arrives_is_the_file(
        size in 0_usize..6000, window in 1_u16..9, block in 8_u16..700,
        lossy in prop::collection::vec(prop::bool::weighted(0.2), 0..60)
    ) {
        let (window, block) = (window.to_string(), block.to_string());
        let options = ["windowsize", &window, "blksize", &block];
        if let Some(got) = fetch(size, &options, &lossy) {
            prop_assert_eq!(got.len(), size);
        }
        prop_assert!(fetch(size, &options, &[]).is_some());
    }
}

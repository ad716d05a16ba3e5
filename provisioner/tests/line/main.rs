//! The factory line as boards and people see it: `serve` runs in a network of its own, a simulated Raspberry Pi boots
//! through it, and dnsmasq, set up as the handbooks say, answers the same board the same way. The relay's part is in
//! `tests/tests/line.rs`.

mod line;
mod net;
mod pi;
mod script;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use line::{Line, output, program, sample};
use net::{Boards, INTERFACE, LINE, network};
use pi::{Offer, Pi, dhcp_socket, read_request, tftp, tftp_options};
use proptest::test_runner::{Config, TestRunner};

/// dnsmasq as a proxy, for the same files.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(line: &Line) -> Self {
        let child = program("dnsmasq", "dnsmasq-base")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--user=root",
                "--pid-file=",
                "--port=0",
                &format!("--interface={INTERFACE}"),
                "--bind-interfaces",
                &format!("--dhcp-range={LINE},proxy"),
                "--pxe-service=0,Raspberry Pi Boot",
                "--enable-tftp",
            ])
            .arg(format!("--tftp-root={}", line.path("boot").display()))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq starts");
        Self(child)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a boot server told a board.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    offer: Offer,
    by_pxe: Offer,
    sizes: Vec<std::collections::BTreeMap<String, String>>,
    files: Vec<Vec<u8>>,
    missing: u8,
}

/// The same questions to whichever server is there. It may need a moment to come up, so the first is repeated.
fn ask(boards: &Boards, pi: Pi) -> Told {
    boards.there(|| {
        let socket = dhcp_socket(68);
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a limit");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut byte = [0; 1500];
        loop {
            socket
                .send_to(&pi.dhcp(1), (Ipv4Addr::BROADCAST, 67))
                .expect("sent");
            if socket.recv_from(&mut byte).is_ok() {
                break;
            }
            assert!(Instant::now() < deadline, "expected an answer to DHCP");
        }
        while socket.recv_from(&mut byte).is_ok() {}
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a limit");
        let offer = pi.discover(&socket);
        // A network's own DHCP server is asked by everybody for an address; that is not our business.
        socket
            .send_to(&pi.dhcp(3), (Ipv4Addr::BROADCAST, 67))
            .expect("sent");
        // Asked directly, with the address that the other server gave.
        let direct = UdpSocket::bind((pi.address(), 0)).expect("bound");
        direct
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a limit");
        let mut request = pi.dhcp(3);
        request[12..16].copy_from_slice(&pi.address().octets());
        direct.send_to(&request, (LINE, 4011)).expect("sent");
        let by_pxe = pi.offer(&direct);
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("a limit");
        assert!(
            socket.recv_from(&mut byte).is_err(),
            "a request on the DHCP port is the other server's"
        );
        let own = format!("{}/cmdline.txt", pi.folder());
        let names = [
            own.as_str(),
            "start4.elf",
            "kernel8.img",
            "overlays/empty.dtbo",
        ];
        let options = [("tsize", "0"), ("blksize", "1024")];
        let sizes = names
            .iter()
            .map(|name| tftp_options(pi.address(), name, &options).expect("a size"))
            .collect();
        let mut files = Vec::new();
        for name in names {
            for options in [&options[..], &[], &[("blksize", "1400")]] {
                files.push(tftp(pi.address(), name, options).expect("a file"));
            }
        }
        let missing = tftp(pi.address(), "none.bin", &options).expect_err("no such file");
        Told {
            offer,
            by_pxe,
            sizes,
            files,
            missing: missing.as_bytes()[0],
        }
    })
}

#[test]
fn boards_are_answered_as_dnsmasq_answers_them() {
    let boards = network(8);
    let mut line = Line::new(8);
    for model in [3, 4, 5] {
        let pi = Pi { number: 0, model };
        let theirs = {
            let _dnsmasq = Dnsmasq::start(&line);
            ask(&boards, pi)
        };
        line.start();
        let ours = ask(&boards, pi);
        line.kill();
        assert_eq!(ours, theirs, "Pi {model}");
        assert_eq!(ours.offer.boot_server(), Some(LINE));
        assert_eq!(ours.offer.head[16..20], [0; 4], "no address is given out");
    }
}

#[test]
fn a_board_boots_and_is_followed() {
    let boards = network(8);
    let mut line = Line::new(2);
    line.start();
    let pi = Pi {
        number: 0,
        model: 4,
    };
    let stranger = Pi {
        number: 7,
        model: 5,
    };
    boards.there(|| {
        let socket = dhcp_socket(68);
        assert_eq!(pi.discover(&socket).boot_server(), Some(LINE));
        // Its own command line, the common rest.
        assert_eq!(pi.tftp("cmdline.txt").expect("its own"), b"console=tty1 own=1\n");
        assert_eq!(pi.tftp("start4.elf").expect("common"), sample(2_300_001, 1));
        assert_eq!(pi.tftp("kernel8.img").expect("common"), sample(1024 * 700, 2));
        assert_eq!(pi.tftp("overlays/empty.dtbo").expect("empty"), b"");
        assert_eq!(
            pi.tftp("recovery.elf").expect_err("not there"),
            "1 there is no file \"recovery.elf\""
        );
        assert_eq!(pi.says("booted", "Linux 6.12"), 204);
        let image = pi.gets(&format!("/images/{}", pi.serial()));
        assert!(image == (200, sample(3_000_000, 3)), "its image");
        let (status, sum) = pi.gets(&format!("/images/{}/sha256", pi.serial()));
        let sum = String::from_utf8(sum).expect("text");
        assert!(status == 200 && sum.len() == 64 + 2 + 9 && sum.ends_with("  base.img\n"), "{sum}");
        // No relay here, so no token: the board is told, and may ask again.
        let (status, text) = pi.gets(&format!("/seed/{}/user-data", pi.serial()));
        assert_eq!(status, 503);
        assert!(
            String::from_utf8_lossy(&text)
                .starts_with("error: the relay at https://127.0.0.1:1 cannot be reached"),
            "{text:?}"
        );
        // A board that is not on the list: seen, and nothing more.
        let discover = stranger.dhcp(1);
        socket.send_to(&discover, (Ipv4Addr::BROADCAST, 67)).expect("sent");
        assert_eq!(
            stranger.tftp("start4.elf").expect_err("nothing"),
            "1 there is no file \"start4.elf\""
        );
        assert_eq!(stranger.says("booted", ""), 403);
        let (status, text) = stranger.gets(&format!("/seed/{}/user-data", stranger.serial()));
        assert_eq!(
            (status, String::from_utf8_lossy(&text).as_ref()),
            (403, "error: abcdef07 is not on this line's list\n  (hint: add it to the line's file, or let the line take all: `unexpected: allow`)\n")
        );
        let mut byte = [0; 600];
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
        assert!(socket.recv_from(&mut byte).is_err(), "no answer to a stranger's DHCP");
        for (path, body, message) in [
            ("/units/xyz/step", r#"{"step":"a"}"#, "error: expected a serial number of 16 hex digits, or its last 8, got \"xyz\"\n"),
            ("/units/10000000abcdef00/step", r#"{"step":"healthy"}"#, "error: expected a step such as booted, written or failed, got \"healthy\"\n"),
            ("/units/10000000abcdef00/step", r#"{"step":"A b"}"#, "error: expected a step such as booted, written or failed, got \"A b\"\n"),
        ] {
            let (status, text) = pi::http(pi.address(), (LINE, 8080).into(), "POST", path, body);
            assert_eq!((status, String::from_utf8_lossy(&text).as_ref()), (400, message));
        }
    });
    let unit = line.unit(pi);
    assert_eq!(unit["state"], "installing");
    assert_eq!(unit["serial"], "10000000abcdef00");
    assert_eq!(unit["mac"], "dc:a6:32:00:00:00");
    assert_eq!(unit["memory_mib"], 3793);
    let steps: Vec<_> = unit["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter_map(|step| step["name"].as_str())
        .collect();
    assert_eq!(
        steps,
        ["booting", "dhcp", "tftp", "booted", "installing", "image"]
    );
    assert_eq!(line.unit(stranger)["expected"], false);
    assert_eq!(line.state()["counts"]["total"], 2);
    assert!(line.interrupt(), "Ctrl-C is a good end");
}

#[test]
fn twenty_at_once_and_a_failure_holds_up_nobody() {
    let boards = network(20);
    let mut line = Line::new(20);
    line.start();
    let pis: Vec<Pi> = (0..20)
        .map(|number| Pi {
            number,
            model: if number % 2 == 0 { 4 } else { 5 },
        })
        .collect();
    let kernel = sample(1024 * 700, 2);
    boards.there(|| {
        let socket = dhcp_socket(68);
        for pi in &pis {
            socket
                .send_to(&pi.dhcp(1), (Ipv4Addr::BROADCAST, 67))
                .expect("sent");
        }
        // The answers are broadcast: each board takes its own.
        let mut offered = std::collections::BTreeSet::new();
        let mut buffer = [0; 1500];
        while offered.len() < pis.len() {
            let (length, _) = socket.recv_from(&mut buffer).expect("an answer to each");
            assert!(length >= 300);
            offered.insert(buffer[7]);
        }
    });
    boards.there(|| {
        std::thread::scope(|scope| {
            for pi in pis.clone() {
                let kernel = &kernel;
                // Threads are of the network that starts them.
                scope.spawn(move || {
                    assert!(pi.tftp("kernel8.img").expect("a kernel") == *kernel);
                    assert_eq!(pi.says("booted", ""), 204);
                    if pi.number == 3 {
                        assert_eq!(
                            pi.says("failed", "expected one unmounted disk, found 2"),
                            204
                        );
                        return;
                    }
                    let (status, image) = pi.gets(&format!("/images/{}", pi.serial()));
                    assert!(status == 200 && image.len() == 3_000_000);
                    assert_eq!(pi.says("written", ""), 204);
                });
            }
        });
    });
    let counts = line.state()["counts"].clone();
    assert_eq!(
        (&counts["installing"], &counts["failed"]),
        (&19.into(), &1.into())
    );
    let broken = pis[3];
    assert_eq!(
        line.unit(broken)["reason"],
        "expected one unmounted disk, found 2"
    );
    let (status, text) = boards.there(|| broken.gets(&format!("/images/{}", broken.serial())));
    assert_eq!(
        (status, String::from_utf8_lossy(&text).as_ref()),
        (
            409,
            "error: abcdef03 failed: expected one unmounted disk, found 2\n  (hint: `lekiwi-provisioner line retry` starts it again)\n"
        )
    );

    // Killed in the middle: everything is as it was, and goes on.
    let before = line.state()["units"].clone();
    line.kill();
    // Asked for while nobody is there; done when there is.
    let retry = line.command(&["retry", &broken.serial()]);
    assert_eq!(
        String::from_utf8_lossy(&retry.stdout),
        "abcdef03 starts again\n"
    );
    line.start();
    let again = line.wait("the retry", |line| {
        let unit = line.unit(broken);
        (unit["attempt"] == 2).then_some(unit)
    });
    assert_eq!(again["state"], "waiting");
    for pi in pis.iter().filter(|pi| pi.number != broken.number) {
        let own = |units: &serde_json::Value| {
            let units = units.as_array().expect("units");
            units
                .iter()
                .find(|unit| unit["unit"] == pi.key().as_str())
                .cloned()
        };
        assert_eq!(own(&before), own(&line.state()["units"]));
    }
    boards.there(|| {
        assert_eq!(broken.says("booted", "again"), 204);
        assert_eq!(broken.gets(&format!("/images/{}", broken.serial())).0, 200);
    });
    assert_eq!(line.unit(broken)["state"], "installing");
    // A retry by a button of the page: the header is what other sites' pages cannot send.
    assert_eq!(line.operator("POST", "/api/units/abcdef04/retry").0, 403);

    let refused = line.command(&["retry", "kiwi-77"]);
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "error: there is no unit \"kiwi-77\"\n"
    );
    let csv = line.command(&["export", "--csv"]);
    let csv = String::from_utf8_lossy(&csv.stdout).into_owned();
    assert_eq!(csv.lines().count(), 21);
    assert!(csv.contains("abcdef02,10000000abcdef02,dc:a6:32:00:00:02,Raspberry Pi 4,3793,kiwi-02,lekiwi,base.img,true,installing,"), "{csv}");
    assert_eq!(line.operator("GET", "/units.csv").1, csv.as_bytes());
    let list = line.command(&["list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("kiwi-19"));
}

#[test]
fn odd_packets_and_boards_that_vanish_hurt_nobody() {
    let boards = network(4);
    let mut line = Line::new(4);
    line.start();
    let pi = Pi {
        number: 1,
        model: 4,
    };
    boards.there(|| {
        let from = pi.address();
        let refused = |name: &str| tftp(from, name, &[]).expect_err("refused");
        let outside = "2 expected the name of a file below the folder, got ";
        for name in ["../secret", "/../secret", "abcdef01/../../secret", "a/../../secret", "..", "/", ""] {
            assert_eq!(refused(name), format!("{outside}{name:?}"));
        }
        // A link that leads outside is no file, nor is a folder.
        assert_eq!(refused("leak"), "1 there is no file \"leak\"");
        assert_eq!(refused("abcdef01/leak"), "1 there is no file \"leak\"");
        assert_eq!(refused("overlays"), "1 there is no file \"overlays\"");
        assert_eq!(refused("abcdef01//etc/passwd"), "1 there is no file \"etc/passwd\"");
        let long = "x".repeat(401);
        assert_eq!(refused(&long), format!("{outside}{:?}", "x".repeat(80)));

        // More blocks than numbers: said to the board, and to people.
        let file = std::fs::File::create(line.path("boot/huge.img")).expect("made");
        file.set_len(100_000_000).expect("sparse");
        assert_eq!(
            tftp(from, "huge.img", &[("blksize", "1024")]).expect_err("too large"),
            "3 expected \"huge.img\" to have at most 67107839 bytes in blocks of 1024, got 100000000: block numbers do not start over"
        );

        // Noise on each port, and what firmware half sends.
        let socket = UdpSocket::bind((from, 0)).expect("bound");
        socket.set_broadcast(true).expect("broadcasts");
        let discover = pi.dhcp(1);
        let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        let noise = (proptest::collection::vec(proptest::num::u8::ANY, 0..600), 0..discover.len());
        runner
            .run(&noise, |(bytes, cut)| {
                let mut changed = discover.clone();
                for (place, byte) in changed.iter_mut().zip(&bytes).skip(cut) {
                    *place = *byte;
                }
                for datagram in [&bytes[..], &discover[..cut], &changed] {
                    for port in [67, 69, 4011] {
                        let _ = socket.send_to(datagram, (LINE, port));
                    }
                }
                let mut half = read_request("start4.elf", &[("blksize", "1024")]);
                half.truncate(cut % half.len());
                let _ = socket.send_to(&half, (LINE, 69));
                Ok(())
            })
            .expect("nothing to fail");

        // The noise is through when something is answered again.
        assert_eq!(pi.tftp("kernel8.img").expect("served"), sample(1024 * 700, 2));

        // Clients that ask and are never heard of again: many of them, while a good one is served.
        let gone: Vec<UdpSocket> = (0..100)
            .map(|_| {
                let socket = UdpSocket::bind((from, 0)).expect("bound");
                socket.send_to(&read_request("start4.elf", &[]), (LINE, 69)).expect("sent");
                socket
            })
            .collect();
        let begun = Instant::now();
        assert_eq!(pi.tftp("start4.elf").expect("served"), sample(2_300_001, 1));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        // The first block, a few times, and then no more.
        let mut sent = 0;
        let mut buffer = [0; 600];
        gone[0].set_read_timeout(Some(Duration::from_secs(4))).expect("a limit");
        while gone[0].recv_from(&mut buffer).is_ok() {
            assert_eq!(buffer[..4], [0, 3, 0, 1]);
            sent += 1;
        }
        assert_eq!(sent, 6);
    });
    let troubles = line.troubles();
    assert!(
        troubles.contains(
            "TFTP for 10.77.0.11: expected \\\"huge.img\\\" to have at most 67107839 bytes"
        ),
        "{troubles}"
    );
    assert!(
        troubles.contains("TFTP of \\\"start4.elf\\\" to 10.77.0.11: the board does not answer"),
        "{troubles}"
    );
    assert_eq!(line.unit(pi)["state"], "booting");
    // Boards are only ever made up by noise that looks like one.
    assert!(line.interrupt());
}

#[test]
fn people_see_the_line_in_a_browser_and_scan_its_labels() {
    let boards = network(2);
    let mut line = Line::new(2);
    line.start();
    let pi = Pi {
        number: 1,
        model: 5,
    };
    boards.there(|| {
        assert_eq!(
            pi.says("booted", "<script>document.title='broken'</script>"),
            204
        );
        assert_eq!(pi.says("failed", "<img src=x onerror=alert(1)>"), 204);
    });
    let profile = line.path("browser");
    let seen = program("chromium", "chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
        ])
        .args(["--timeout=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("http://127.0.0.1:8090/")
        .output()
        .expect("chromium starts");
    let (dom, log) = (
        String::from_utf8_lossy(&seen.stdout),
        String::from_utf8_lossy(&seen.stderr),
    );
    assert!(
        dom.contains("<title>line a · Lekiwi line</title>"),
        "{dom}\n{log}"
    );
    assert!(dom.contains("<b data-count=\"failed\">1</b>"), "{dom}");
    assert!(
        dom.contains("data-unit=\"abcdef01\" data-state=\"failed\""),
        "{dom}"
    );
    assert!(dom.contains("&lt;img src=x onerror=alert(1)&gt;"), "{dom}");
    assert!(!log.contains("Content Security Policy"), "{log}");
    // Another site's name that points here gets nothing.
    let output_of = |host: &str| {
        output(program("curl", "curl").args([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            host,
            "http://127.0.0.1:8090/",
        ]))
    };
    assert_eq!(output_of("host: evil.example:8090"), "421");
    assert_eq!(output_of("host: localhost:8090"), "200");

    let address =
        "QR-Code:https://127.0.0.1:1/?robot=kiwi-01&serial=10000000abcdef01&profile=lekiwi\n";
    for end in ["svg", "pdf"] {
        let (label, picture) = (
            line.path(&format!("label.{end}")),
            line.path(&format!("{end}.png")),
        );
        let made = line.command(&["label", "kiwi-01", "--out", &label.display().to_string()]);
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        if end == "svg" {
            output(
                program("rsvg-convert", "librsvg2-bin")
                    .args(["--zoom=4", "--output"])
                    .args([&picture, &label]),
            );
        } else {
            let stem = picture.with_extension("");
            output(
                program("pdftoppm", "poppler-utils")
                    .args(["-png", "-r", "300", "-singlefile"])
                    .args([&label, &stem]),
            );
            let text = output(program("pdftotext", "poppler-utils").arg(&label).arg("-"));
            assert!(
                text.contains("kiwi-01") && text.contains("serial 10000000abcdef01"),
                "{text}"
            );
        }
        assert_eq!(
            output(
                program("zbarimg", "zbar-tools")
                    .arg("--quiet")
                    .arg(&picture)
            ),
            address
        );
    }
    let wrong = line.command(&["label", "kiwi-01", "--out", "label.png"]);
    assert_eq!(
        String::from_utf8_lossy(&wrong.stderr),
        "error: expected a name that ends with .svg or .pdf, got label.png\n"
    );
}

#[test]
fn what_does_not_fit_the_machine_is_said() {
    let _boards = network(1);
    let line = Line::new(1);
    let serve = |text: &str| {
        std::fs::write(line.path("line.yml"), text).expect("written");
        let output = program("timeout", "coreutils")
            .arg("10")
            .arg(env!("CARGO_BIN_EXE_lekiwi-provisioner"))
            .args(["serve", "--line"])
            .arg(line.path("line.yml"))
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = std::fs::read_to_string(line.path("line.yml")).expect("text");
    assert_eq!(
        serve(&text.replace("address: 10.77.0.1", "address: 10.99.0.1")),
        "error: cannot listen for boards at 10.99.0.1:8080: Cannot assign requested address (os error 99)\n  (hint: network.address must be an address of this machine)\n"
    );
    assert_eq!(
        serve(&text.replace("interface: line0", "interface: nosuch0")),
        "error: cannot listen for DHCP at port 67 of nosuch0: No such device (os error 19)\n"
    );
    assert_eq!(
        serve(&text.replace("boot_files: boot", "boot_files: gone")),
        format!(
            "error: cannot read {}: No such file or directory (os error 2)\n",
            line.path("gone").display()
        )
    );
    let taken = std::net::TcpListener::bind((LINE, 8080)).expect("bound");
    assert_eq!(
        serve(&text),
        "error: cannot listen for boards at 10.77.0.1:8080: Address already in use (os error 98)\n  (hint: another program has the port: is a line, dnsmasq or a DHCP server running here?)\n"
    );
    drop(taken);
}

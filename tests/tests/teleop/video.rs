//! Pictures that somebody reads, and that command nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::message::kind;

use super::site::Site;
use super::{PATIENCE, Row, Traffic, exactly, traffic};

pub(super) const ALL: &[Traffic] = &[
    traffic(
        "WebRTC pictures and a data channel, with the media server's API",
        webrtc,
    ),
    traffic(
        "RTSP camera of GStreamer, and ffmpeg that reads it over TCP",
        rtsp,
    ),
];

fn rtsp(site: &mut Site) -> Result<Row> {
    site.camera()?;
    looked_at(site, "rtsp_reader", "RTSP")
}

/// The kernel counts nothing of what goes over UDP: the media server's word is all there is, and it has none for the
/// commands on the data channel.
fn webrtc(site: &mut Site) -> Result<Row> {
    site.on_robot("webrtc_robot", &[])?;
    let row = looked_at(site, "webrtc_client", "front")?;
    Ok(Row::nobody(format!(
        "{}; commands by a data channel are not seen",
        row.note
    )))
}

/// A reader of this kind is said to look on, at this stream, and nothing else is said.
fn looked_at(site: &mut Site, kind_of_reader: &str, stream: &str) -> Result<Row> {
    let host = site.host()?;
    let reader = site.from(&host, kind_of_reader, &[])?;
    let said = site.event(kind::OBSERVING, PATIENCE)?;
    let video = said.data.evidence.video.as_ref();
    ensure!(
        said.data.operator.id == host.address().to_string()
            && video.is_some_and(|video| video.streams == [stream]),
        "expected {} to look at {stream}, got {said:?}",
        host.address()
    );
    let first = reader.first("first").context("expected pictures")?;
    let took = said.at.as_ms().saturating_sub(first);
    ensure!(
        took <= 8_000,
        "expected `observing` within 8 s, took {took} ms"
    );
    site.nothing_starts(Duration::from_secs(10))?;
    exactly(site, &[kind::OBSERVING])?;
    Ok(Row::nobody("`observing`"))
}

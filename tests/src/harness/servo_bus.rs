//! A servo bus at the end of an emulated serial port: answers Feetech's ping and read as healthy STS3215 servos do.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Asked of every servo at once.
const BROADCAST: u8 = 0xFE;
/// What an STS3215 says when its model number is read.
const MODEL: u16 = 777;

/// A bus that waits for QEMU to connect its serial port.
pub struct ServoBus {
    path: PathBuf,
}

impl ServoBus {
    /// Puts the servos `ids` on a bus whose socket is `path`; it lasts as long as the process.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path, ids: &[u8]) -> Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        let ids = ids.to_vec();
        std::thread::spawn(move || {
            // One board at a time, and again after each power cut.
            while let Ok((port, _)) = listener.accept() {
                // It ends when the board goes off.
                let _ = serve(port, &ids);
            }
        });
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn serve(mut port: UnixStream, ids: &[u8]) -> std::io::Result<()> {
    let mut heard = Vec::new();
    let mut chunk = [0; 256];
    loop {
        let count = port.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        heard.extend_from_slice(&chunk[..count]);
        while let Some((asked, instruction)) = next_request(&mut heard) {
            let mut answers = Vec::new();
            for id in ids.iter().filter(|id| asked == **id || asked == BROADCAST) {
                let parameters: &[u8] = if instruction == 1 {
                    &[]
                } else {
                    &MODEL.to_le_bytes()
                };
                answers.extend(status(*id, parameters));
            }
            port.write_all(&answers)?;
        }
    }
}

/// Whom the next whole request is for, and its instruction: `FF FF id length instruction … checksum`.
fn next_request(heard: &mut Vec<u8>) -> Option<(u8, u8)> {
    let start = heard.windows(2).position(|pair| pair == [0xFF, 0xFF])?;
    heard.drain(..start);
    let length = usize::from(*heard.get(3)?) + 4;
    if heard.len() < length {
        return None;
    }
    let request: Vec<u8> = heard.drain(..length).collect();
    Some((request[2], request[4]))
}

/// A status packet without an error.
fn status(id: u8, parameters: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xFF, 0xFF, id, 2, 0];
    packet.extend_from_slice(parameters);
    packet[3] += u8::try_from(parameters.len()).unwrap_or(u8::MAX);
    let sum = packet[2..]
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    packet.push(!sum);
    packet
}

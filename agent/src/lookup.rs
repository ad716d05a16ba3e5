//! Names of health checks and of an older relay, looked up on threads of their own. The runtime has one thread for what
//! blocks, and that is the link's: a name whose server does not answer holds a thread for half a minute.
//!
//! Invariants: an address in digits and `localhost` (RFC 6761) are never looked up; a name has one look-up at a time, and all
//! of them together [`MOST`]; whoever waits for one may give up at any time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

/// Most look-ups at a time: threads count towards what the service may have.
const MOST: usize = 8;
/// Enough for the C library's resolver.
const STACK_BYTES: usize = 256 * 1024;

static PLACES: Semaphore = Semaphore::const_new(MOST);

/// What finds the addresses of `HOST:PORT`, and may take its time.
type Resolve = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Somewhere to connect to; clones share their look-up.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    address: String,
    turn: Arc<Semaphore>,
    resolve: Resolve,
}

impl Destination {
    /// `HOST:PORT`
    pub(crate) fn new(address: &str) -> Self {
        let resolve = |address: &str| Ok(address.to_socket_addrs()?.collect());
        Self::with(address, resolve)
    }

    fn with(address: &str, resolve: Resolve) -> Self {
        Self {
            address: address.to_owned(),
            turn: Arc::new(Semaphore::new(1)),
            resolve,
        }
    }

    /// As it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.address
    }

    /// A connection to the first of its addresses that takes one.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let addresses = match self.known() {
            Some(addresses) => addresses,
            None => self.addresses().await?,
        };
        TcpStream::connect(&addresses[..]).await
    }

    /// What nobody has to be asked for.
    fn known(&self) -> Option<Vec<SocketAddr>> {
        if let Ok(address) = self.address.parse() {
            return Some(vec![address]);
        }
        let port: u16 = self.address.strip_prefix("localhost:")?.parse().ok()?;
        let here = [
            (Ipv6Addr::LOCALHOST, port).into(),
            // What the last one says is told.
            (Ipv4Addr::LOCALHOST, port).into(),
        ];
        Some(here.into())
    }

    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let turn = turn.map_err(|_| io::Error::other("its name is still being looked up"))?;
        let place = PLACES.try_acquire().map_err(|_| {
            let many = format!("expected fewer than {MOST} names that are being looked up");
            io::Error::other(many)
        })?;
        let (sender, found) = oneshot::channel();
        let (address, resolve) = (self.address.clone(), self.resolve);
        thread::Builder::new()
            .name("lookup".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let found = resolve(&address);
                drop((turn, place));
                // Whoever does not wait any more asks again.
                let _ = sender.send(found);
            })?;
        found.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use tokio::net::{TcpListener, lookup_host};
    use tokio::time::timeout;

    use super::*;
    use crate::clock;

    static ANSWERS: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

    /// A server of names that does not answer before it is told to.
    fn dead(_: &str) -> io::Result<Vec<SocketAddr>> {
        let answers = ANSWERS.0.lock().unwrap();
        let waited = ANSWERS
            .1
            .wait_timeout_while(answers, Duration::from_secs(60), |answers| !*answers);
        drop(waited.unwrap());
        Err(io::Error::other("no such name"))
    }

    /// One that answers at once: everything is here.
    fn live(address: &str) -> io::Result<Vec<SocketAddr>> {
        let (_, port) = address.rsplit_once(':').unwrap();
        Ok(vec![(Ipv4Addr::LOCALHOST, port.parse().unwrap()).into()])
    }

    fn said<T>(result: io::Result<T>) -> String {
        result.map_or_else(|error| error.to_string(), |_| "connected".to_owned())
    }

    /// As the agent's runtime: one thread, and one for what blocks.
    #[test]
    fn a_name_that_nobody_answers_for_holds_up_nobody_else() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let patience = Duration::from_millis(100);
            let names: Vec<Destination> = (0..MOST)
                .map(|name| Destination::with(&format!("dead-{name}.test:1"), dead))
                .collect();
            for name in &names[1..] {
                assert!(timeout(patience, name.connect()).await.is_err());
            }
            // Another check, and the link.
            let live = Destination::with(&format!("live.test:{port}"), live);
            let limit = Duration::from_secs(10);
            assert_eq!(
                said(timeout(limit, live.connect()).await.unwrap()),
                "connected"
            );
            let link = timeout(limit, lookup_host(("localhost", port))).await;
            assert!(link.unwrap().is_ok());

            // The same name again, and one too many; what is known needs nobody.
            let again = names[1].clone().connect().await;
            assert_eq!(said(again), "its name is still being looked up");
            assert!(timeout(patience, names[0].connect()).await.is_err());
            assert_eq!(
                said(live.connect().await),
                "expected fewer than 8 names that are being looked up"
            );
            for known in ["127.0.0.1", "localhost"] {
                let known = Destination::new(&format!("{known}:{port}"));
                assert_eq!(said(known.connect().await), "connected");
            }

            *ANSWERS.0.lock().unwrap() = true;
            ANSWERS.1.notify_all();
            let deadline = clock::now() + limit;
            while said(live.connect().await) != "connected" {
                assert!(clock::now() < deadline, "expected the threads to end");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut answer = said(names[1].connect().await);
            while answer == "its name is still being looked up" {
                assert!(clock::now() < deadline, "expected its thread to end");
                tokio::time::sleep(Duration::from_millis(5)).await;
                answer = said(names[1].connect().await);
            }
            assert_eq!(answer, "no such name");
        });
    }
}

//! A real, headless Chromium, driven over WebDriver.

use std::time::Duration;

use anyhow::{Context, Result};
use fantoccini::{Client, ClientBuilder, Locator};
use tempfile::TempDir;

use super::process::{Process, free_port, program};

/// A browser with one window.
pub struct Browser {
    client: Client,
    driver: Process,
    _files: TempDir,
}

impl Browser {
    /// Starts one with an empty profile. It takes the relay's certificate, which no public authority signed.
    ///
    /// # Errors
    /// When Chromium or its driver is missing, or does not start.
    pub async fn start() -> Result<Self> {
        let driver = program("chromedriver", "chromium-driver")?;
        let chromium = program("chromium", "chromium")?;
        let files = tempfile::tempdir()?;
        let port = free_port()?;
        let log = files.path().join("chromedriver.log");
        let mut driver = Process::start(
            "chromedriver",
            &driver,
            [format!("--port={port}")],
            &[],
            &log,
        )?;
        driver.wait_for("a listener", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })?;
        let profile = files.path().join("profile");
        let capabilities = serde_json::json!({
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": {
                "binary": chromium,
                "args": [
                    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-sync",
                    "--disable-dev-shm-usage", "--window-size=1280,900",
                    format!("--user-data-dir={}", profile.display()),
                ],
            },
        });
        let serde_json::Value::Object(capabilities) = capabilities else {
            unreachable!("an object was written above")
        };
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .context("expected a browser window")?;
        Ok(Self {
            client,
            driver,
            _files: files,
        })
    }

    /// Opens an address.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        Ok(self.client.goto(url).await?)
    }

    /// Logs in on the page that asks for it.
    ///
    /// # Errors
    /// When there is no such page.
    pub async fn log_in(&self, base: &str, user: &str, password: &str) -> Result<()> {
        self.open(&format!("{base}/login")).await?;
        let form = self.client.form(Locator::Css("form")).await?;
        form.set_by_name("user", user)
            .await?
            .set_by_name("password", password)
            .await?;
        form.submit().await?;
        Ok(())
    }

    /// The text of the first element that fits, once it is there and `wanted` likes it.
    ///
    /// # Errors
    /// When that does not happen within 30 s; with the last text.
    pub async fn text(&self, css: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        let mut last = None;
        loop {
            if let Ok(element) = self.client.find(Locator::Css(css)).await
                && let Ok(text) = element.text().await
            {
                if wanted(&text) {
                    return Ok(text);
                }
                last = Some(text);
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "expected another text in {css} within 30 s, last {last:?}; the page says {:?}",
                self.client
                    .source()
                    .await
                    .map(|page| page.chars().take(2_000).collect::<String>())
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a script of the page's own answers: the body of a function.
    ///
    /// # Errors
    /// When it throws.
    pub async fn script(&self, body: &str) -> Result<serde_json::Value> {
        Ok(self.client.execute(body, Vec::new()).await?)
    }

    /// A PNG of the window.
    ///
    /// # Errors
    /// When the browser makes none.
    pub async fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(self.client.screenshot().await?)
    }

    /// Closes the window. A browser that is dropped instead, as by a test that fails, is ended by its process.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn close(self) -> Result<()> {
        Ok(self.client.clone().close().await?)
    }
}

/// A driver that is killed leaves its browser behind.
impl Drop for Browser {
    fn drop(&mut self) {
        let Some(driver) = self.driver.id() else {
            return;
        };
        let children = std::fs::read_to_string(format!("/proc/{driver}/task/{driver}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            if let Ok(child) = child.parse() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(child),
                    nix::sys::signal::Signal::SIGTERM,
                );
            }
        }
    }
}

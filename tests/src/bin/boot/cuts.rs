//! Power that goes at any moment of a first boot.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use lekiwi_tests::harness::Board;

use crate::{Line, Named, PATIENCE, say};

impl Line {
    /// Each cut on a fresh card and a fresh robot; the next boot must end in a registered one.
    pub(crate) async fn power_cuts(
        &self,
        cuts: u32,
        seed: u64,
        at_once: usize,
        first_boot: Duration,
    ) -> Result<()> {
        say(&format!("seed {seed}"));
        let mut random = seed | 1;
        // These boards have one core where the measured one had two.
        let longest = u64::try_from(first_boot.as_millis())?
            .saturating_mul(2)
            .max(1);
        let moments = (0..cuts).map(|cut| {
            // xorshift64: moments need no better randomness.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (cut, Duration::from_millis(2_000 + random % longest))
        });
        stream::iter(moments)
            .map(|(cut, moment)| self.power_cut(cut, moment))
            .buffer_unordered(at_once.max(1))
            .try_collect::<()>()
            .await
    }

    async fn power_cut(&self, cut: u32, moment: Duration) -> Result<()> {
        let id = format!("cut-{cut:02}");
        let (card, _) = self.card(&id, &Named::Given(&id)).await?;
        let mut board = self.board(&id, card, 1, None)?;
        while board.uptime() < moment && !board.is_off()? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let was_registered = self.robot(&id).await?.is_some();
        let options = board.cut_power()?;
        if was_registered {
            let waited = Instant::now();
            while self
                .robot(&id)
                .await?
                .is_some_and(|robot| robot["status"]["online"] == true)
            {
                ensure!(
                    waited.elapsed() < PATIENCE,
                    "expected the relay to notice that {id} is off"
                );
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        let mut board = Board::power_on(options)?;
        let back = self
            .wait(
                &id,
                &mut board,
                "registered and online after a power cut",
                |robot| {
                    robot["status"]["online"] == true && !robot["status"]["registered_at"].is_null()
                },
            )
            .await?;
        say(&format!(
            "cut {cut:>2} after {:>5.1} s ({}): online {:>6.1} s after the next power-on",
            moment.as_secs_f64(),
            if was_registered {
                "registered"
            } else {
                "not registered"
            },
            back.as_secs_f64()
        ));
        std::fs::remove_file(board.cut_power()?.card)?;
        Ok(())
    }
}

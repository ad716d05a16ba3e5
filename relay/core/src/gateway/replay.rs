//! Joins the stored events to the live ones, each event once. While stored ones are read, live ones are only
//! noted: they were committed before they came, so that a later page has them. Once a page ends the log and no
//! noted one is beyond it, live ones count, but for those that a page had.
//!
//! Invariant: of the events beyond the position asked for, each is told once, in the order of the log.

/// Where a subscription stands in the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seam {
    /// Every event up to here was told, or is not wanted.
    after: u64,
    /// While stored events are read: the last live one that came meanwhile.
    replaying: Option<u64>,
}

impl Seam {
    /// Begins with what comes live.
    pub(super) fn live() -> Self {
        Self {
            after: 0,
            replaying: None,
        }
    }

    /// Begins with what is stored beyond `after`.
    pub(super) fn replay(after: u64) -> Self {
        Self {
            after,
            replaying: Some(0),
        }
    }

    /// Whether a live event is to be told now.
    pub(super) fn take(&mut self, position: u64) -> bool {
        if let Some(noted) = &mut self.replaying {
            *noted = position.max(*noted);
            return false;
        }
        position > self.after
    }

    /// The position beyond which the next page is wanted.
    pub(super) fn wants(&self) -> Option<u64> {
        self.replaying.map(|_| self.after)
    }

    /// A page was read: everything up to `position` was in it or before it; `whole` when nothing more was stored.
    /// Answers whether what follows is live.
    pub(super) fn page(&mut self, position: u64, whole: bool) -> bool {
        self.after = position.max(self.after);
        let joined = whole && self.replaying.is_some_and(|noted| noted <= self.after);
        if joined {
            self.replaying = None;
        }
        joined
    }

    /// The last position that was looked at.
    pub(super) fn position(&self) -> u64 {
        self.after
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A page on its way: what was beyond it, the last position, and whether it ends the log.
    type Page = (u64, u64, bool);

    fn read(seam: &Seam, log: u64, limit: u64) -> Option<Page> {
        let after = seam.wants()?;
        let last = (after + limit).min(log);
        Some((after, last, last - after < limit))
    }

    fn take(seam: &mut Seam, (after, last, whole): Page, told: &mut Vec<u64>) {
        told.extend(after + 1..=last);
        seam.page(last, whole);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// A log that grows, a live stream that lags behind it, and pages of any size, in any order; while a page is
        /// on its way, both go on.
        #[test]
        fn each_event_is_told_once_and_in_order(
            steps in prop::collection::vec((0_u8..4, 1_u64..4), 1..200),
            from in 0_u64..20,
            stored in 20_u64..40,
            limit in 1_u64..6,
        ) {
            let (mut log, mut published, mut told) = (stored, stored, Vec::new());
            let mut seam = Seam::replay(from);
            let mut page = None;
            for (step, n) in steps {
                match step {
                    0 => log += n,
                    1 => for _ in 0..n {
                        if published < log {
                            published += 1;
                            if seam.take(published) {
                                told.push(published);
                            }
                        }
                    },
                    2 => page = page.or_else(|| read(&seam, log, limit)),
                    _ => if let Some(page) = page.take() {
                        take(&mut seam, page, &mut told);
                    },
                }
            }
            if let Some(page) = page {
                take(&mut seam, page, &mut told);
            }
            while published < log {
                published += 1;
                if seam.take(published) {
                    told.push(published);
                }
            }
            while let Some(page) = read(&seam, log, limit) {
                take(&mut seam, page, &mut told);
            }
            prop_assert_eq!(told, (from + 1..=log).collect::<Vec<_>>());
        }
    }
}

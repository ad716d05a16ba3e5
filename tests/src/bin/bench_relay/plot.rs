//! Curves as a picture for the documents.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::curves::Curve;

/// Width and height of one curve, pixels.
const PANEL: (u32, u32) = (420, 280);
/// Curves side by side.
const COLUMNS: usize = 2;
const LINE: RGBColor = RGBColor(31, 111, 178);

/// Draws all of them into one SVG, each from zero up, so that what is flat looks flat.
pub(crate) fn svg(curves: &[Curve], path: &Path) -> Result<()> {
    let rows = curves.len().div_ceil(COLUMNS);
    let size = (
        PANEL.0 * u32::try_from(COLUMNS)?,
        PANEL.1 * u32::try_from(rows)?,
    );
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (curve, panel) in curves.iter().zip(root.split_evenly((rows, COLUMNS))) {
        let xs = curve.points.iter().map(|(x, _)| *x);
        let first = xs.clone().next().context("expected points")?;
        let last = xs.fold(first, f64::max);
        let top = curve.points.iter().fold(0.0_f64, |top, (_, y)| top.max(*y));
        let mut chart = ChartBuilder::on(&panel)
            .caption(curve.title, ("sans-serif", 15))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d((first..last * 1.2).log_scale(), 0.0..top * 1.3)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            // A decade each.
            .x_labels(4)
            .x_label_formatter(&|x| x.to_string())
            .x_desc(curve.of)
            .y_desc(curve.unit)
            .draw()?;
        let line = LineSeries::new(curve.points.iter().copied(), LINE.stroke_width(2));
        chart.draw_series(line.point_size(3))?;
    }
    root.present()
        .with_context(|| format!("expected to write {}", path.display()))
}

//! Plots: one of each group and metric that cases are compared by, a bar for each case from nothing to the median, and a
//! line from the least to the largest value.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::group::Group;
use super::report::{Metric, Report};

/// The metrics that are not plotted: conditions, and what others say better.
const NOT_PLOTTED: [&str; 4] = ["ping_pong_ns", "offered_pps", "read_pps", "latency_p50_us"];
/// Measures, pixels.
const WIDTH: u32 = 960;
const NAMES_WIDTH: i32 = 230;
const VALUES_WIDTH: i32 = 90;
const TOP: i32 = 56;
const LINE: i32 = 26;
const BAR: i32 = 16;
const FONT: &str = "sans-serif";
const FONT_LEN: i32 = 14;

/// Rows of vipdp's stand out.
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHERS: RGBColor = RGBColor(0xb0, 0xb0, 0xb0);

/// Writes the plots into `directory`.
pub(super) fn write(report: &Report, directory: &Path) -> Result<()> {
    for group in Group::ALL {
        for metric in report.metrics(group) {
            if !NOT_PLOTTED.contains(&metric.name) {
                let path = directory.join(format!("{}-{}.svg", group.name(), metric.name));
                draw(report, group, metric, &path)
                    .map_err(|error| anyhow!("{}: {error}", path.display()))?;
            }
        }
    }
    Ok(())
}

fn draw(report: &Report, group: Group, metric: &Metric, path: &Path) -> Result<()> {
    let bars: Vec<_> = report
        .cases(group)
        .filter_map(|case| Some((case, report.figure(case, metric.name)?)))
        .collect();
    let height = (TOP + LINE * bars.len() as i32 + LINE) as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
    let left = (FONT, FONT_LEN).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
    let right = left.pos(Pos::new(HPos::Right, VPos::Center));
    let text = |text: String, at: (i32, i32), style: &TextStyle<'_>| {
        area.draw_text(&text, style, at).map_err(|error| anyhow!("{error}"))
    };
    text(metric.heading.to_owned(), (NAMES_WIDTH, TOP / 2), &left)?;
    let most = bars.iter().map(|(_, spread)| spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(WIDTH as i32 - NAMES_WIDTH - VALUES_WIDTH);
    let x = |value: f64| NAMES_WIDTH + (value / most * room).round() as i32;
    for (number, (case, spread)) in bars.into_iter().enumerate() {
        let y = TOP + LINE * number as i32 + LINE / 2;
        let colour = if case.contains("vipdp") { OURS } else { OTHERS };
        let corners = [(NAMES_WIDTH, y - BAR / 2), (x(spread.median), y + BAR / 2)];
        area.draw(&Rectangle::new(corners, colour.filled())).map_err(|error| anyhow!("{error}"))?;
        let whisker = vec![(x(spread.min), y), (x(spread.max), y)];
        area.draw(&PathElement::new(whisker, BLACK)).map_err(|error| anyhow!("{error}"))?;
        text(case.to_owned(), (NAMES_WIDTH - 10, y), &right)?;
        let value = format!("{:.*}", metric.decimals, spread.median / metric.scale);
        text(value, (x(spread.max) + 8, y), &left)?;
    }
    area.present().map_err(|error| anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_plot_has_a_bar_and_a_name_for_each_row() {
        let directory = tempfile::tempdir().expect("a directory");
        let rates = [("xdp-drop", 0, 2e7), ("vipdp", 0, 1e7), ("vipdp", 1, 1.2e7)];
        write(&report(&rates), directory.path()).expect("written");
        let text = std::fs::read_to_string(directory.path().join("receive-total_pps.svg"))
            .expect("a plot");
        for name in ["xdp-drop", "vipdp", "20.00", "11.00"] {
            assert!(text.contains(name), "{name}: {text}");
        }
        // The background and two bars; a line from the least to the largest of each.
        assert_eq!(text.matches("<rect").count(), 3, "{text}");
        assert_eq!(text.matches("<polyline").count(), 2, "{text}");
    }
}

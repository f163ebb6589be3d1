// SPDX-License-Identifier: MIT OR Apache-2.0

//! The picture of a run: for each guest its performance state, latency, violations and utilization
//! over time, with coordination against without.

use crate::trace::{Phase, Row, guests};
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::path::Path;

const WIDTH: u32 = 1200;
const ROW_HEIGHT: u32 = 190;
const HEAD_HEIGHT: u32 = 70;

const WITHOUT: RGBColor = RGBColor(200, 50, 40);
const WITH: RGBColor = RGBColor(30, 90, 180);
const SLA: RGBColor = RGBColor(120, 120, 120);

/// One of the stacked diagrams.
struct Diagram {
    title: &'static str,
    top: f64,
    value: fn(&Row) -> f64,
    /// A level to mark.
    mark: Option<(f64, &'static str)>,
    /// Held until the next report, as a state is; not joined by slopes.
    steps: bool,
    /// `value`, `top` and the mark are decimal logarithms: starved and served differ too much for
    /// one linear scale.
    logarithmic: bool,
}

/// Draws the trace `rows` to the file `svg`.
pub fn draw(rows: &[Row], svg: &Path) -> Result<()> {
    drawn(rows, svg).map_err(|e| anyhow!("{}: {e}", svg.display()))
}

fn drawn(rows: &[Row], svg: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let names = guests(rows);
    let with_end = end(rows, Phase::With);
    let seconds = (with_end + end(rows, Phase::Relaxed))
        .max(end(rows, Phase::Without))
        .max(1.0);
    let top_latency = rows.iter().map(latency).fold(2.0, f64::max).ceil();
    let top_cap = rows.iter().map(|row| row.cap).max().unwrap_or(0).max(10);
    // The SLA of the parts that are drawn; agents begin with one of their own.
    let sla = rows
        .last()
        .map_or(1.0, |row| f64::from(row.sla_us) / 1000.0);
    let diagrams = [
        Diagram {
            title: "performance state: cap, % of a CPU",
            top: f64::from(top_cap) * 1.1,
            value: |row| f64::from(row.cap),
            mark: None,
            steps: true,
            logarithmic: false,
        },
        Diagram {
            title: "response time, 95th percentile, ms (logarithmic)",
            top: top_latency,
            value: latency,
            mark: Some((sla.max(1.0).log10(), "SLA")),
            steps: false,
            logarithmic: true,
        },
        Diagram {
            title: "violations, % of the epoch's requests",
            top: 105.0,
            value: |row| f64::from(row.violations) * 100.0 / f64::from(row.requests.max(1)),
            mark: None,
            steps: false,
            logarithmic: false,
        },
        Diagram {
            title: "utilization, % of the allotted CPU",
            top: 105.0,
            value: |row| f64::from(row.utilization) / 10.0,
            mark: Some((80.0, "lower below")),
            steps: false,
            logarithmic: false,
        },
    ];

    let height = HEAD_HEIGHT + ROW_HEIGHT * diagrams.len() as u32;
    let root = SVGBackend::new(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD_HEIGHT);
    heading(&head)?;
    let columns = body.split_evenly((1, names.len().max(1)));
    for (name, column) in names.iter().zip(&columns) {
        let of = |phase: Phase, offset: f64| -> Vec<(f64, &Row)> {
            let own = rows
                .iter()
                .filter(|row| row.phase == phase && row.name == *name);
            own.map(|row| (row.phase_ms as f64 / 1000.0 + offset, row))
                .collect()
        };
        let without = of(Phase::Without, 0.0);
        let mut with = of(Phase::With, 0.0);
        with.extend(of(Phase::Relaxed, with_end));
        let cells = column.split_evenly((diagrams.len(), 1));
        for (diagram, cell) in diagrams.iter().zip(cells) {
            let caption = format!("{name}: {}", diagram.title);
            let mut chart = ChartBuilder::on(&cell)
                .caption(caption, ("sans-serif", 15))
                .margin(8)
                .x_label_area_size(26)
                .y_label_area_size(48)
                .build_cartesian_2d(0.0..seconds, 0.0..diagram.top)?;
            chart
                .configure_mesh()
                .light_line_style(WHITE)
                .x_labels(10)
                .y_labels(if diagram.logarithmic {
                    diagram.top as usize + 1
                } else {
                    6
                })
                .x_label_formatter(&|x| format!("{x:.0} s"))
                .y_label_formatter(&|&y| match diagram.logarithmic {
                    true => format!("{:.0}", 10f64.powf(y)),
                    false => format!("{y:.0}"),
                })
                .draw()?;
            if with_end > 0.0 && with_end < seconds {
                // From here on the load is lower.
                let area = [(with_end, 0.0), (seconds, diagram.top)];
                chart.draw_series([Rectangle::new(area, BLACK.mix(0.05).filled())])?;
            }
            if let Some((level, text)) = diagram.mark {
                let line = [(0.0, level), (seconds, level)];
                chart.draw_series(LineSeries::new(line, SLA))?;
                let label = Text::new(text, (seconds * 0.005, level), ("sans-serif", 12));
                chart.draw_series([label])?;
            }
            for (series, colour) in [(&without, WITHOUT), (&with, WITH)] {
                let points = points(series, diagram);
                chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            }
        }
    }
    root.present()?;
    Ok(())
}

/// The decimal logarithm of the response time in milliseconds, from 1 ms on.
fn latency(row: &Row) -> f64 {
    (f64::from(row.p95_us) / 1000.0).max(1.0).log10()
}

fn points(series: &[(f64, &Row)], diagram: &Diagram) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::with_capacity(series.len() * 2);
    for &(at, row) in series {
        let value = (diagram.value)(row);
        if let (true, Some(&(_, last))) = (diagram.steps, points.last()) {
            points.push((at, last));
        }
        points.push((at, value));
    }
    points
}

fn heading(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Result<(), Box<dyn std::error::Error>> {
    let title = ("sans-serif", 20).into_text_style(area);
    area.draw_text(
        "Two guests under the same load, from the lowest state",
        &title,
        (12, 12),
    )?;
    for (i, (text, colour)) in [
        ("without coordination", WITHOUT),
        ("with the power broker (shaded: the load is lower)", WITH),
    ]
    .into_iter()
    .enumerate()
    {
        let x = 12 + i as i32 * 240;
        area.draw(&PathElement::new(
            [(x, 50), (x + 30, 50)],
            colour.stroke_width(3),
        ))?;
        let style = ("sans-serif", 14).into_text_style(area);
        area.draw_text(text, &style, (x + 36, 43))?;
    }
    Ok(())
}

/// When a phase's last report came, seconds.
fn end(rows: &[Row], phase: Phase) -> f64 {
    let times = rows
        .iter()
        .filter(|row| row.phase == phase)
        .map(|row| row.phase_ms);
    times.max().unwrap_or(0) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::row;

    #[test]
    fn a_picture_is_drawn_of_anything() {
        let path = std::env::temp_dir().join(format!("demo-plot-{}.svg", std::process::id()));
        let rows: Vec<Row> = (0..50)
            .flat_map(|i| {
                [
                    row(Phase::Without, "pv1", i, 20, 20),
                    row(Phase::With, "pv1", i, 20, u32::from(i < 5)),
                    row(Phase::Relaxed, "pvh1", i, 5, 0),
                ]
            })
            .collect();
        for rows in [&rows[..], &rows[..1], &[]] {
            draw(rows, &path).unwrap();
            let svg = std::fs::read_to_string(&path).unwrap();
            assert!(svg.starts_with("<svg"));
            assert_eq!(svg.contains("pv1: performance state"), !rows.is_empty());
        }
        std::fs::remove_file(&path).unwrap();
    }
}

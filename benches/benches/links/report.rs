//! What a row leaves behind: a Markdown section and plots, below `target/bench/`.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Below the build directory, wherever that is.
pub(crate) fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("this program has a path");
    // target/release/deps/links-...
    let target = program.ancestors().nth(3).expect("it is in a build directory").join("bench");
    fs::create_dir_all(&target).expect("a directory for results");
    target
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that so many percent of all do not exceed.
pub(crate) fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A section of the table: printed as it comes, kept for `scripts/bench`.
pub(crate) struct Section {
    name: String,
    text: String,
}

impl Section {
    pub(crate) fn new(name: &str, title: &str, columns: &[&str]) -> Self {
        let mut section = Self { name: name.to_owned(), text: String::new() };
        section.say(&format!("\n### {title}\n\nload average {}\n", load()));
        section.say(&format!("| {} |", columns.join(" | ")));
        section.say(&format!("|{}", "---|".repeat(columns.len())));
        section
    }

    pub(crate) fn row(&mut self, cells: &[String]) {
        // An error may have several lines and bars; a cell has one and none.
        let cells = cells.iter().map(|cell| cell.lines().next().unwrap_or_default().replace('|', "/"));
        self.say(&format!("| {} |", cells.collect::<Vec<_>>().join(" | ")));
    }

    pub(crate) fn say(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        let path = folder().join(format!("{}.md", self.name));
        fs::write(&path, &self.text).unwrap_or_else(|error| eprintln!("{}: {error}", path.display()));
    }
}

/// Of the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// A name and its points.
pub(crate) type Series = (String, Vec<(f64, f64)>);

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 36.0;
const RIGHT: f64 = 190.0;
const BOTTOM: f64 = 44.0;
const COLOURS: [&str; 7] = ["#c1121f", "#1d4e89", "#2a9d8f", "#e09f3e", "#7b2cbf", "#6c757d", "#000000"];

/// Draws lines into `target/bench/NAME.svg`.
pub(crate) fn plot(name: &str, title: &str, x_label: &str, y_label: &str, series: &[Series]) {
    let path = folder().join(format!("{name}.svg"));
    let drawn = draw(title, x_label, y_label, series);
    fs::write(&path, drawn).unwrap_or_else(|error| eprintln!("{}: {error}", path.display()));
}

/// A step of 1, 2 or 5 times a power of ten that divides `most` into at most eight.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 8.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    steps.into_iter().find(|step| most / step <= 8.0).unwrap_or(power * 10.0)
}

fn draw(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points);
    let most = |pick: fn(&(f64, f64)) -> f64| points().map(pick).fold(f64::MIN_POSITIVE, f64::max);
    let (most_x, most_y) = (most(|point| point.0), most(|point| point.1));
    let x = |value: f64| LEFT + value / most_x * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / most_y * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    let marks = |most: f64| (0..=(most / step(most)) as usize).map(move |n| n as f64 * step(most));
    for mark in marks(most_y) {
        let (at, to) = (y(mark), WIDTH - RIGHT);
        line(format!("<path d=\"M{LEFT} {at:.1}H{to}\" stroke=\"#ddd\"/>"));
        line(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>", LEFT - 6.0, at + 4.0));
    }
    for mark in marks(most_x) {
        line(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{mark}</text>",
            x(mark),
            HEIGHT - BOTTOM + 18.0
        ));
    }
    line(format!("<text x=\"{}\" y=\"{}\">{x_label}</text>", LEFT, HEIGHT - 8.0));
    line(format!(
        "<text x=\"12\" y=\"{}\" transform=\"rotate(-90 12 {})\">{y_label}</text>",
        HEIGHT / 2.0,
        HEIGHT / 2.0
    ));
    for (number, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mut path = String::new();
        for (at, point) in points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if at == 0 { "M" } else { "L" }, x(point.0), y(point.1));
        }
        line(format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"));
        let at = TOP + 18.0 * number as f64 + 10.0;
        line(format!("<text x=\"{}\" y=\"{at}\" fill=\"{colour}\">{name}</text>", WIDTH - RIGHT + 10.0));
    }
    svg + "</svg>\n"
}

/// Points of a distribution: how many percent took at most so long, up to the 99.9th.
pub(crate) fn distribution(name: &str, values: &[f64]) -> Series {
    let points = (1..=999).map(|n| f64::from(n) / 10.0).map(|percent| (percent, percentile(values.to_vec(), percent)));
    (name.to_owned(), points.collect())
}

//! A page of `/metrics`, read.

use std::collections::BTreeSet;

/// A scraped page.
#[derive(Debug, Clone)]
pub struct Page(String);

impl Page {
    /// The page with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Sum of all series of this name whose labels include these; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series()
            .filter(|(series, found, _)| {
                *series == name
                    && labels
                        .iter()
                        .all(|(key, value)| found.contains(&format!("{key}=\"{value}\"")))
            })
            .map(|(_, _, value)| value)
            .sum()
    }

    /// Names of all series.
    pub fn names(&self) -> BTreeSet<String> {
        self.series().map(|(name, ..)| name.to_owned()).collect()
    }

    /// Name, labels as text, value.
    fn series(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        self.0.lines().filter_map(|line| {
            if line.starts_with('#') {
                return None;
            }
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.trim_end_matches('}')),
                None => (series, ""),
            };
            Some((name, labels, value.parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_the_labels_asked_for() {
        let page = Page::new(
            "# HELP a_total Words.\n# TYPE a counter\na_total{x=\"1\",y=\"p q\"} 2\na_total{x=\"2\",y=\"r\"} 3\nb 7.5\n# EOF\n",
        );
        assert_eq!(page.sum("a_total", &[]), 5.0);
        assert_eq!(page.sum("a_total", &[("y", "p q")]), 2.0);
        assert_eq!(page.sum("a_total", &[("x", "3")]), 0.0);
        assert_eq!(page.sum("b", &[]), 7.5);
        assert_eq!(page.names(), ["a_total", "b"].map(str::to_owned).into());
    }
}

//! cAdvisor's `container_network_transmit_bytes_total`, read from the pods' interfaces at the moment of the scrape.
//!
//! (A kubelet's cAdvisor reads them every 10 to 15 s and stamps the samples itself; the lab's is as fresh as the scrape.)

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::net;

/// A pod with an interface of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace in the API.
    pub namespace: String,
    /// Its name in the API.
    pub name: String,
    /// Where its counters are; see [`net::read_counters`].
    pub counters: PathBuf,
}

/// The page for a scrape now. A pod whose counters cannot be read is left out, as cAdvisor leaves it out.
#[must_use]
pub fn page<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> String {
    let name = "container_network_transmit_bytes_total";
    let mut page =
        format!("# HELP {name} Cumulative count of bytes transmitted\n# TYPE {name} counter\n");
    for pod in pods {
        let Ok(counters) = net::read_counters(&pod.counters) else {
            continue;
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "{name}{{container=\"\",image=\"\",interface=\"eth0\",namespace=\"{}\",pod=\"{}\"}} {}",
            pod.namespace, pod.name, counters.tx_bytes
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_readable_pod_has_its_series_once() {
        let folder = tempfile::tempdir().unwrap();
        let counters = folder.path().join("dev");
        std::fs::write(&counters, "eth0: 1 0 0 0 0 0 0 0 4711 0 0 0 0 0 0 0\n").unwrap();
        let pod = |name: &str, counters: PathBuf| Pod {
            namespace: "factory".to_owned(),
            name: name.to_owned(),
            counters,
        };
        let page = page(&[
            pod("erp-dashboard-x", counters),
            pod("gone", folder.path().join("none")),
        ]);
        assert!(
            page.contains(
                "interface=\"eth0\",namespace=\"factory\",pod=\"erp-dashboard-x\"} 4711\n"
            )
        );
        assert!(!page.contains("gone"), "{page}");
    }
}

//! NNCP and Syncthing on P5: 1 GiB over two hops of loopback.

use std::path::Path;

pub(crate) fn nncp(_: &Path) -> Result<f64, String> {
    Err("not written yet".to_owned())
}

pub(crate) fn syncthing(_: &Path) -> Result<f64, String> {
    Err("not written yet".to_owned())
}

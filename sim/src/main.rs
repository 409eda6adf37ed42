//! The binary `weft-sim`.

use std::process::ExitCode;

mod huge_pages;

fn main() -> ExitCode {
    huge_pages::ask_for();
    weft_sim::cli::main_with(std::env::args_os())
}

use clap::Parser;
use postern::cli::*;
#[derive(Parser)]
enum C {
    Test(policy_test::TestArgs),
    Check(policy_check::CheckArgs),
    Eval(policy_eval::EvalArgs),
    Footprint(policy_footprint::FootprintArgs),
}
fn main() -> std::process::ExitCode {
    let mut o = std::io::stdout().lock();
    let mut e = std::io::stderr().lock();
    let p = output::Paint::stdout();
    let r = match C::parse() {
        C::Test(a) => policy_test::run(&a, p, &mut o, &mut e),
        C::Check(a) => policy_check::run(&a, p, &mut o, &mut e),
        C::Eval(a) => policy_eval::run(&a, &mut o, &mut e),
        C::Footprint(a) => policy_footprint::run(&a, &mut o, &mut e),
    };
    match r {
        Ok(x) => x.into(),
        Err(e) => {
            eprintln!("{e:#}");
            1.into()
        }
    }
}

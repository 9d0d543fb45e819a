//! `rego.parse_module`: the syntax tree of a Rego v1 module in OPA's own form.
//!
//! A parser of its own, not the one that loads policies: what OPA shows of a module (the extent of
//! a unary minus, numbered wildcards, what a bracketed term was) is gone from the other's tree, and
//! a policy may hand it any text. It never evaluates, and what it makes is bounded: length, tokens, depth.

mod lexer;
mod parser;
mod rule;
mod syntax;

use regorus::Value;

use self::parser::Parser;
use super::{Entry, Failure, argument};

pub(super) const TABLE: &[Entry] = &[("rego.parse_module", 2, parse_module)];

/// Longest module, in bytes.
const BYTES_MAX: usize = 128 << 10;

fn parse_module(arguments: &[Value]) -> Result<Value, Failure> {
    let (filename, text) = (argument::string(arguments, 0)?, argument::string(arguments, 1)?);
    if text.len() > BYTES_MAX {
        return Err(Failure::Refused(format!("module longer than {} KiB", BYTES_MAX >> 10)));
    }
    let lexed = lexer::lex(filename, text)?;
    let module = Parser::new(filename, text, &lexed.tokens).module()?;
    Ok(syntax::module_value(filename, &module, &lexed.comments))
}

#[cfg(test)]
mod tests;

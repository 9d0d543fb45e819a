//! stub
/// stub
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate;
impl Rate {
    /// stub
    pub fn parse(t: &str) -> Result<Self, ()> {
        if t.contains('/') { Ok(Self) } else { Err(()) }
    }
}

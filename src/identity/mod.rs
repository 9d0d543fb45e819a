//! Who is asking: one file per provider, and the chain that tries them in order.

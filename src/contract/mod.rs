//! The public documents: facts, policy input, decision, event.

//! A bounded HTTP(S) GET for small documents such as key sets.

//! Nothing: only the tests beside this count.

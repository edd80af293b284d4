//! May it go back?

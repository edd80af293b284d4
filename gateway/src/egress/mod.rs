//! Who is dialled, and under which bounds?

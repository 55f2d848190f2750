//! Scenarios of the scheduler's state machine.

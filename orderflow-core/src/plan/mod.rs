//! SQL text or fluent calls become one DataFusion logical plan.

//! All that packages of the workspace take from outside, with all features that any of them asks for: `.ci/run` checks a package's features beside this one,
//! so that all of them share one build of DataFusion.

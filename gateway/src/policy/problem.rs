//! What is wrong in `policies/`, and where?
//!
//! One finding with its file, the text underlined, and what to do next. It does not print: `cli` does.

use std::{fmt, sync::Arc};

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode, SourceSpan};

/// One file of `policies/`, as read.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file's name, as messages and policy ids have it.
    pub file: String,
    /// What is in it.
    pub text: Arc<String>,
}

impl Source {
    /// A file's text under its name.
    #[must_use]
    pub fn new(file: &str, text: &str) -> Self {
        Self { file: file.to_owned(), text: Arc::new(text.to_owned()) }
    }
}

/// One finding.
#[derive(Debug, Clone)]
pub struct Problem {
    message: String,
    help: Option<String>,
    severity: Severity,
    source: Option<Box<NamedSource<Arc<String>>>>,
    labels: Vec<LabeledSpan>,
}

impl Problem {
    /// An error that stands nowhere in a file.
    #[must_use]
    pub fn new(message: String) -> Self {
        Self { message, help: None, severity: Severity::Error, source: None, labels: Vec::new() }
    }

    /// An error in `source`, with `span` underlined.
    #[must_use]
    pub fn at(source: &Source, span: Option<SourceSpan>, message: String) -> Self {
        Self {
            source: Some(Box::new(NamedSource::new(&source.file, Arc::clone(&source.text)))),
            labels: span.map(|span| LabeledSpan::new_with_span(None, span)).into_iter().collect(),
            ..Self::new(message)
        }
    }

    /// What a reader such as Cedar's says about `source`; `fallback` is underlined where it does not say what.
    pub(crate) fn of(source: &Source, diagnostic: &dyn Diagnostic, fallback: Option<SourceSpan>) -> Self {
        let mut problem = Self::at(source, None, diagnostic.to_string());
        problem.help = diagnostic.help().map(|help| help.to_string());
        problem.severity = diagnostic.severity().unwrap_or(Severity::Error);
        problem.labels = diagnostic.labels().map(Iterator::collect).unwrap_or_default();
        if let (true, Some(span)) = (problem.labels.is_empty(), fallback) {
            problem.labels.push(LabeledSpan::new_with_span(None, span));
        }
        problem
    }

    /// What a TOML reader says about `source`.
    pub(crate) fn of_toml(source: &Source, fault: &toml::de::Error) -> Self {
        Self::at(source, fault.span().map(SourceSpan::from), fault.message().to_owned())
    }

    /// The same with the next step.
    #[must_use]
    pub fn help(mut self, help: &str) -> Self {
        self.help = Some(help.to_owned());
        self
    }

    /// The same, but not in the way of loading.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Where it stands among others: by file, place and text, whatever order they were found in.
    pub(crate) fn order(&self) -> (String, usize, String) {
        let file = self.source.as_ref().map(|source| source.name().to_owned()).unwrap_or_default();
        (file, self.labels.first().map_or(0, LabeledSpan::offset), self.message.clone())
    }

    /// Whether the policies must not be used.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.help.as_ref().map(|help| -> Box<dyn fmt::Display> { Box::new(help) })
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_deref().map(|source| -> &dyn SourceCode { source })
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

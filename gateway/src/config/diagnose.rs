//! What is wrong with a file, and where?
//!
//! A [`Problem`] points into the text it is about and names the next step; a [`Report`] holds all of them at once.
//! It does not look for problems: the readers and checkers of each kind of file do, the policy files' included.

use std::{error, fmt, ops::Range, sync::Arc};

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, NamedSource, Severity, SourceCode,
    SourceSpan, SpanContents,
};

/// A file that somebody wrote, with the name under which they know it.
#[derive(Debug, Clone)]
pub struct Source(Arc<NamedSource<String>>);

impl SourceCode for Source {
    /// The lines that the span touches, whole and without their neighbours: the nearest line is enough to find the
    /// place, and a neighbour is one more line that may say something that is nobody's business.
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        if lines_before == 0 && lines_after == 0 {
            return self.0.read_span(span, 0, 0);
        }
        let text = self.0.inner();
        let end = span.offset().saturating_add(span.len());
        let before = text.get(..span.offset()).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
        let rest = text.get(end..).unwrap_or_default();
        let end = end.saturating_add(rest.find('\n').unwrap_or(rest.len()));
        self.0.read_span(&SourceSpan::from(start..end), 0, 0)
    }
}

impl Source {
    /// Keeps `text` for underlines; secrets in it must be masked before.
    #[must_use]
    pub fn new(name: &str, text: String) -> Self {
        Self(Arc::new(NamedSource::new(name, text)))
    }

    /// The name under which the operator knows the file.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Begins a problem in this file: lower case, no full stop, what the operator wrote in backticks.
    #[must_use]
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { source: self.clone(), message: message.into(), labels: Vec::new(), help: None }
    }
}

/// One thing that must change before the file can be used.
#[derive(Debug, Clone)]
pub struct Problem {
    source: Source,
    message: String,
    labels: Vec<LabeledSpan>,
    help: Option<String>,
}

impl Problem {
    /// Underlines the bytes of `span` and writes `label` beside them.
    #[must_use]
    pub fn at(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.labels.push(LabeledSpan::new_with_span(Some(label.into()), span));
        self
    }

    /// The next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Where the first underline begins.
    fn offset(&self) -> usize {
        self.labels.iter().map(LabeledSpan::offset).min().unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

/// Everything that is wrong, over all files of one check.
#[derive(Debug, Default)]
pub struct Report(Vec<Box<dyn Diagnostic + Send + Sync>>);

/// Whether the reader of a rendered report understands escape sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// A terminal.
    Terminal,
    /// A file, a pipe, a log.
    Plain,
}

impl Report {
    /// One problem as a whole report.
    #[must_use]
    pub fn of(problem: impl Diagnostic + Send + Sync + 'static) -> Self {
        Self(vec![Box::new(problem)])
    }

    /// Adds a problem; those of other libraries (Cedar's) must carry their source themselves.
    pub fn push(&mut self, problem: impl Diagnostic + Send + Sync + 'static) {
        self.0.push(Box::new(problem));
    }

    /// Adds the problems of another check behind these.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// How many problems stand in the way; warnings are not counted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().filter(|problem| is_error(problem.as_ref())).count()
    }

    /// Whether there is nothing to tell, not even a warning.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first line of each problem, for a log.
    pub fn messages(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(ToString::to_string)
    }

    /// Every problem with its file, line, underline and help, and the count below.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        let theme = match colour {
            Colour::Terminal => GraphicalTheme::unicode(),
            Colour::Plain => GraphicalTheme::unicode_nocolor(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(WIDTH)
            .with_links(false)
            .with_context_lines(1)
            .without_syntax_highlighting();
        let mut text = String::new();
        for problem in &self.0 {
            // Writing to a string fails only where a span lies outside its text; the message is still worth having.
            if handler.render_report(&mut text, problem.as_ref()).is_err() {
                text.push_str(&problem.to_string());
            }
            text.push('\n');
        }
        let count = self.count();
        text.push_str(&counted(count, "problem"));
        if let Some(warnings) = self.0.len().checked_sub(count).filter(|warnings| *warnings > 0) {
            text.push_str(&format!(", {}", counted(warnings, "warning")));
        }
        text.push('\n');
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(Colour::Plain))
    }
}

impl error::Error for Report {}

impl From<Vec<Problem>> for Report {
    /// In the order of the file, whatever the order in which they were found.
    fn from(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::offset);
        let mut report = Self::default();
        for problem in problems {
            report.push(problem);
        }
        report
    }
}

fn is_error(problem: &dyn Diagnostic) -> bool {
    problem.severity().is_none_or(|severity| severity == Severity::Error)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Columns of a rendered report.
const WIDTH: usize = 120;

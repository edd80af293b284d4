//! What is wrong with a file, and where?
//!
//! A [`Problem`] points into the text it is about and names the next step; a [`Report`] holds all of them at once.
//! It does not look for problems: the readers and checkers of each kind of file do, the policy files' included.

use std::{error, fmt, ops::Range, path::Path, sync::Arc};

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, NamedSource, Severity, SourceCode,
    SourceSpan, SpanContents,
};

/// A file that somebody wrote, with the name under which they know it.
#[derive(Debug, Clone)]
pub struct Source {
    name: Arc<str>,
    placed: Arc<NamedSource<String>>,
}

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
            return self.placed.read_span(span, 0, 0);
        }
        let text = self.placed.inner();
        let end = span.offset().saturating_add(span.len());
        let before = text.get(..span.offset()).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
        let rest = text.get(end..).unwrap_or_default();
        let end = end.saturating_add(rest.find('\n').unwrap_or(rest.len()));
        self.placed.read_span(&SourceSpan::from(start..end), 0, 0)
    }
}

impl Source {
    /// Keeps `text` for underlines; secrets in it must be masked before.
    #[must_use]
    pub fn new(name: &str, text: impl Into<String>) -> Self {
        Self { name: name.into(), placed: Arc::new(NamedSource::new(name, text.into())) }
    }

    /// A file of `folder`, which its name does not say; where something is wrong, both are told.
    #[must_use]
    pub fn within(folder: &Path, name: &str, text: impl Into<String>) -> Self {
        let place = folder.join(name).display().to_string();
        Self { name: name.into(), placed: Arc::new(NamedSource::new(place, text.into())) }
    }

    /// The name under which the operator knows the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, as far as is known.
    #[must_use]
    pub fn place(&self) -> &str {
        self.placed.name()
    }

    /// What is in it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.placed.inner()
    }

    /// Begins a problem in this file: lower case, no full stop, what the operator wrote in backticks.
    #[must_use]
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { source: Some(self.clone()), ..Problem::nowhere(message) }
    }

    /// What another library says about this file; `fallback` is underlined where it does not say what.
    #[must_use]
    pub fn relayed(&self, said: &dyn Diagnostic, fallback: Option<SourceSpan>) -> Problem {
        let labels: Vec<LabeledSpan> = said.labels().map(Iterator::collect).unwrap_or_default();
        let problem = Problem {
            help: said.help().map(|help| help.to_string()),
            severity: said.severity().unwrap_or(Severity::Error),
            ..self.problem(said.to_string())
        };
        if labels.is_empty() { problem.under(fallback) } else { Problem { labels, ..problem } }
    }

    /// What a TOML reader says about this file.
    #[must_use]
    pub fn toml(&self, fault: &toml::de::Error) -> Problem {
        self.problem(fault.message()).under(fault.span().map(SourceSpan::from))
    }
}

/// One thing that must change before the file can be used.
#[derive(Debug, Clone)]
pub struct Problem {
    source: Option<Source>,
    message: String,
    labels: Vec<LabeledSpan>,
    help: Option<String>,
    severity: Severity,
}

impl Problem {
    /// A problem that stands in no file.
    #[must_use]
    pub fn nowhere(message: impl Into<String>) -> Self {
        Self { source: None, message: message.into(), labels: Vec::new(), help: None, severity: Severity::Error }
    }

    /// Underlines `span`, if there is one, where the message says it all.
    #[must_use]
    pub fn under(mut self, span: Option<SourceSpan>) -> Self {
        self.labels.extend(span.map(|span| LabeledSpan::new_with_span(None, span)));
        self
    }

    /// The same, `offset` bytes further on: of a text that was read in pieces.
    #[must_use]
    pub fn moved(mut self, offset: usize) -> Self {
        for label in &mut self.labels {
            let place = label.offset().saturating_add(offset);
            *label = LabeledSpan::new(label.label().map(str::to_owned), place, label.len());
        }
        self
    }

    /// Whether it points at a place.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        !self.labels.is_empty()
    }

    /// The same, but not in the way of using the file.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Whether the file must not be used.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Where it stands among others: by file, place and text, whatever order they were found in.
    #[must_use]
    pub fn order(&self) -> (String, usize, String) {
        let file = self.source.as_ref().map(|source| source.name().to_owned()).unwrap_or_default();
        (file, self.offset(), self.message.clone())
    }

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

    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| -> &dyn SourceCode { source })
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

/// The file, line and column that a problem points at.
fn place(problem: &dyn Diagnostic) -> Option<String> {
    let first = problem.labels()?.min_by_key(LabeledSpan::offset)?;
    let contents = problem.source_code()?.read_span(first.inner(), 0, 0).ok()?;
    let (line, column) = (contents.line().checked_add(1)?, contents.column().checked_add(1)?);
    Some(format!("{}:{line}:{column}", contents.name()?))
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

    /// How many do not.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.0.len().saturating_sub(self.count())
    }

    /// Whether there is nothing to tell, not even a warning.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first line of each problem, with its place, for a log.
    pub fn messages(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|problem| match place(problem.as_ref()) {
            Some(place) => format!("{place}: {problem}"),
            None => problem.to_string(),
        })
    }

    /// Every problem with its file, line, underline and help, and the count below, where any stands in the way.
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
        let (count, warnings) = (self.count(), self.warnings());
        if count > 0 {
            text.push_str(&counted(count, "problem"));
            if warnings > 0 {
                text.push_str(&format!(", {}", counted(warnings, "warning")));
            }
            text.push('\n');
        }
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

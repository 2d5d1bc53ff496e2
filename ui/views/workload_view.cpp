#include "ui/views/workload_view.h"

#include "core/base/file.h"
#include "core/engine/admission.h"
#include "core/model/demo_model.h"
#include "ui/text.h"
#include "ui/worker.h"

#include <QFileDialog>
#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QScrollArea>
#include <QStyle>
#include <QUndoCommand>
#include <QVBoxLayout>

#include <qcustomplot.h>

#include <algorithm>
#include <cmath>

namespace spartan {

namespace {

WorkloadPreview::Histogram histogramOf(const std::vector<double>& values, int bins, bool integers) {
    WorkloadPreview::Histogram h;
    if (values.empty()) return h;
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    h.first = *low;
    h.width = std::max((*high - *low) / bins, 1e-9);
    if (integers) h.width = std::max(1.0, std::ceil((*high - *low + 1) / bins));
    h.counts.assign(size_t(std::floor((*high - *low) / h.width)) + 1, 0);
    double sum = 0;
    for (const double v : values) {
        h.counts[std::min(h.counts.size() - 1, size_t((v - h.first) / h.width))] += 1;
        sum += v;
    }
    h.max = *std::max_element(h.counts.begin(), h.counts.end());
    h.mean = sum / double(values.size());
    return h;
}

// In the workload itself, or for the device that would run it.
std::optional<Error> whatIsWrong(const Workload& workload, int cuda_device) {
    const auto parsed = parse_workload(workload_to_json(workload), "workload", ".");
    if (!parsed) return parsed.error();
    EngineOptions engine = workload.engine;
    engine.cuda_device = cuda_device;
    const auto fits = check_device_choices(engine);
    if (fits) return std::nullopt;
    Error error = fits.error();
    error.file = "workload";
    error.field = "engine." + error.field;
    return error;
}

void repolish(QWidget* w) {
    w->style()->unpolish(w);
    w->style()->polish(w);
}

}  // namespace

WorkloadPreview previewOf(const Workload& workload, const std::vector<std::string>& adapter_names) {
    WorkloadPreview out;
    auto plan = make_plan(workload, adapter_names, 0);
    if (!plan) {
        out.error = plan.error().message();
        out.error_field = plan.error().field;
        return out;
    }
    std::vector<double> arrivals, prompts, outputs;
    std::vector<int64_t> share(adapter_names.size() + 1, 0);
    const size_t first = size_t(plan->warmup);
    for (size_t i = first; i < plan->requests.size(); ++i) {
        const PlannedRequest& r = plan->requests[i];
        // In a closed loop only the first ones have a time of their own: the rest follow as others finish.
        const bool timed = !workload.trace.empty() || workload.arrival.kind != "closed" ||
                           int64_t(i - first) < workload.arrival.concurrency;
        if (timed) arrivals.push_back(double(r.arrival_us) / 1e6);
        prompts.push_back(r.prompt_tokens);
        outputs.push_back(r.output_tokens);
        out.prompt_total += r.prompt_tokens;
        out.output_total += r.output_tokens;
        ++share[r.adapter < 0 ? adapter_names.size() : size_t(r.adapter)];
    }
    out.requests = int64_t(prompts.size());
    out.span_s = arrivals.empty() ? 0 : *std::max_element(arrivals.begin(), arrivals.end());
    out.closed = workload.trace.empty() && workload.arrival.kind == "closed";
    out.concurrency = workload.arrival.concurrency;
    out.arrivals = histogramOf(arrivals, 60, false);
    out.prompt_tokens = histogramOf(prompts, 48, true);
    out.output_tokens = histogramOf(outputs, 48, true);
    for (size_t i = 0; i < adapter_names.size(); ++i) out.share.emplace_back(adapter_names[i], share[i]);
    if (share.back() > 0 || adapter_names.empty()) out.share.emplace_back("base", share.back());
    return out;
}

Workload paperWorkload() {
    Workload w;
    w.name = "paper-round-robin";
    return w;
}

Workload demoWorkload() {
    Workload w;
    w.name = "demo";
    w.requests = 64;
    w.ignore_eos = false;
    w.arrival.kind = "closed";
    w.arrival.concurrency = 16;
    w.assignment.include_base = true;
    w.prompt_tokens = {"uniform", 0, 44, 72, 0, 0};
    w.output_tokens = {"fixed", 48, 1, 1, 0, 0};
    // Small enough that its pages and its limit can be seen; automatic would be gigabytes, nearly all of them free.
    w.engine.pool_bytes = 512'000'000;
    return w;
}

class WorkloadView::EditCommand : public QUndoCommand {
public:
    EditCommand(WorkloadView& view, const QString& field, Workload before, Workload after)
        : QUndoCommand(tr("workload: %1").arg(field)),
          view_(view),
          field_(field),
          before_(std::move(before)),
          after_(std::move(after)) {}
    void undo() override { view_.apply(before_); }
    void redo() override {
        if (!std::exchange(first_, false)) view_.apply(after_);
    }
    int id() const override { return 1; }
    bool mergeWith(const QUndoCommand* other) override {
        // Typing in one field, or turning one knob, is one step.
        const auto* next = static_cast<const EditCommand*>(other);
        if (next->field_ != field_ || &next->view_ != &view_ || field_.startsWith(QLatin1Char('!'))) return false;
        after_ = next->after_;
        return true;
    }

private:
    WorkloadView& view_;
    QString field_;
    Workload before_, after_;
    bool first_ = true;
};

WorkloadView::WorkloadView(Session& session, QWidget* parent)
    : Panel(QStringLiteral("workload"), tr("Workload"), parent), session_(session), workload_(demoWorkload()) {
    pool_.setMaxThreadCount(1);
    auto* body = new QWidget;
    auto* columns = new QHBoxLayout(body);
    columns->setContentsMargins(0, 0, 0, 0);
    columns->setSpacing(0);

    scroll_ = new QScrollArea;
    scroll_->setWidgetResizable(true);
    scroll_->setFrameShape(QFrame::NoFrame);
    scroll_->setAccessibleName(tr("Workload form"));
    scroll_->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    form_ = new QWidget;
    form_box_ = new QVBoxLayout(form_);
    buildForm(form_box_);
    scroll_->setWidget(form_);
    scroll_->viewport()->setAutoFillBackground(false);
    form_->setAutoFillBackground(false);
    columns->addWidget(scroll_, 0);

    auto* right = new QWidget;
    auto* plots = new QVBoxLayout(right);
    summary_ = new QLabel;
    summary_->setTextFormat(Qt::PlainText);
    summary_->setWordWrap(true);
    plots->addWidget(summary_);
    const auto add = [&](QCustomPlot*& plot, const QString& title, const QString& name) {
        auto* label = new QLabel(title);
        plot_titles_.push_back(label);
        plots->addWidget(label);
        plot = new QCustomPlot;
        plot->setAccessibleName(title);
        plots->addWidget(plot, 1);
        addExport({QStringLiteral("workload-") + name, plot, {}, [this] { return toQ(workload_.name); }});
    };
    add(arrivals_, tr("Arrivals, requests per bin"), QStringLiteral("arrivals"));
    add(lengths_, tr("Lengths in tokens: prompt solid, output outlined"), QStringLiteral("lengths"));
    add(share_, tr("Requests by adapter, in order"), QStringLiteral("share"));
    columns->addWidget(right, 1);
    setBody(body);

    for (const auto& [text, slot] :
         {std::pair{tr("Open…"), &WorkloadView::openFile}, std::pair{tr("Save"), &WorkloadView::save},
          std::pair{tr("Save as…"), &WorkloadView::saveAs}}) {
        auto* b = new QPushButton(text);
        b->setProperty("link", true);
        headerControls()->addWidget(b);
        connect(b, &QPushButton::clicked, this, slot);
        if (slot == &WorkloadView::save) save_ = b;
    }

    preview_timer_.setSingleShot(true);
    preview_timer_.setInterval(120);
    connect(&preview_timer_, &QTimer::timeout, this, [this] {
        const uint64_t request = ++preview_request_;
        std::vector<std::string> names;
        for (const LibraryEntry& e : session_.library().entries())
            if (e.kind == LibraryEntry::Kind::adapter && e.state == LibraryEntry::State::ready) names.push_back(e.name);
        runInWorker(
            pool_, this, [w = workload_, names] { return previewOf(w, names); },
            [this, request](WorkloadPreview preview) {
                if (request == preview_request_) showPreview(preview);
            });
    });
    connect(&session, &Session::modelChanged, this, [this] {  // another device may compute now
        check();
        emit edited();
    });
    for (const auto signal : {&QAbstractItemModel::rowsInserted, &QAbstractItemModel::rowsRemoved})
        connect(&session.library(), signal, this, &WorkloadView::schedulePreview);
    connect(&session.library(), &QAbstractItemModel::dataChanged, this, [this](const QModelIndex& from) {
        if (from.column() == 0) schedulePreview();  // not for the live figures
    });
    saved_ = workload_to_json(workload_);
    apply(workload_);
}

QWidget* WorkloadView::editor(const QString& field) const {
    for (const Field& f : fields_)
        if (f.path == field) return f.editor;
    return nullptr;
}

// What is in the form against what is in the file.
void WorkloadView::updateFacts() {
    QString facts = oneLine(workload_.name, 60);
    facts +=
        QStringLiteral(" · ") + (path_.isEmpty() ? tr("not in a file") : oneLine(toStd(QFileInfo(path_).fileName())));
    if (modified()) facts += tr(" · ● changed since it was %1").arg(path_.isEmpty() ? tr("chosen") : tr("saved"));
    setFacts(facts, path_.isEmpty() ? facts : facts + QLatin1Char('\n') + path_);
    save_->setEnabled(path_.isEmpty() || modified());
    save_->setToolTip(plainTooltip(save_->isEnabled() ? tr("Writes the workload to its file (Ctrl+S)")
                                                      : tr("Nothing has changed since it was saved")));
}

bool WorkloadView::modified() const { return workload_to_json(workload_) != saved_; }

void WorkloadView::edit(const QString& field, const std::function<void(Workload&)>& change) {
    if (loading_) return;
    Workload after = workload_;
    change(after);
    Workload before = std::exchange(workload_, after);
    session_.undoStack().push(new EditCommand(*this, field, std::move(before), std::move(after)));
    check();
    schedulePreview();
    updateFacts();
    emit edited();
}

void WorkloadView::setWorkload(Workload workload, const QString& what) {
    Workload before = workload_;
    session_.undoStack().push(new EditCommand(*this, QLatin1Char('!') + what, std::move(before), workload));
    // A preset is where changes are counted from, unless a file is open: then the file is.
    if (path_.isEmpty()) saved_ = workload_to_json(workload);
    apply(workload);
}

void WorkloadView::apply(const Workload& workload) {
    workload_ = workload;
    loading_ = true;
    for (Field& f : fields_) {
        if (f.load) f.load();
        f.mistyped.clear();
    }
    loading_ = false;
    check();
    schedulePreview();
    updateFacts();
    emit edited();
}

void WorkloadView::setMistyped(const QString& path, const QString& why) {
    for (Field& f : fields_)
        if (f.path == path) f.mistyped = why;
    check();
    emit edited();
}

void WorkloadView::setFieldError(const QString& path, const QString& text) {
    for (const Field& f : fields_) {
        if (f.path != path) continue;
        f.error->setText(text);
        f.error->setVisible(!text.isEmpty());
        f.editor->setProperty("invalid", !text.isEmpty());
        repolish(f.editor);
    }
}

void WorkloadView::check() {
    for (const Field& f : fields_) {
        if (f.used) {
            const bool used = f.used();
            group_ = nullptr;
            f.name->setVisible(used);
            f.editor->parentWidget()->setVisible(used);
        }
        if (f.error->isVisibleTo(f.editor->parentWidget())) setFieldError(f.path, {});
    }
    error_.clear();
    error_label_->clear();
    for (const Field& f : fields_) {
        if (f.mistyped.isEmpty()) continue;
        setFieldError(f.path, f.mistyped);
        error_ = tr("%1: %2").arg(f.path, f.mistyped);
    }
    if (!error_.isEmpty()) return;
    Workload w = resolved();
    if (w.model.empty()) w.model = "synthetic:tiny";  // no base yet is not the form's mistake
    const auto wrong = whatIsWrong(w, session_.cudaDevice());
    if (!wrong) return;
    const Error& e = *wrong;
    error_ = oneLine(e.message());
    const QString path = toQ(e.field);
    const bool shown = std::any_of(fields_.begin(), fields_.end(), [&](const Field& f) { return f.path == path; });
    if (shown)
        setFieldError(path, tr("found %1, expected %2").arg(oneLine(e.found, 80), oneLine(e.expected, 200)));
    else
        error_label_->setText(error_);
}

Workload WorkloadView::resolved() const {
    Workload w = workload_;
    w.model = toStd(session_.modelPath());
    if (w.model == demo_model_path()) w.model = kDemoModel;  // the same file on every machine, wherever its cache is
    w.adapters.clear();
    std::vector<std::string> specs;
    for (const LibraryEntry& e : session_.library().entries()) {
        if (e.kind != LibraryEntry::Kind::adapter || e.state != LibraryEntry::State::ready) continue;
        if (!e.request.dir.empty())
            w.adapters.push_back(e.name + "=" + e.request.dir);
        else if (std::find(specs.begin(), specs.end(), e.source) == specs.end())
            specs.push_back(e.source), w.adapters.push_back(e.source);
    }
    return w;
}

void WorkloadView::schedulePreview() { preview_timer_.start(); }

void WorkloadView::refresh(const RunModel&, const TimeController&) {}

void WorkloadView::showPreview(const WorkloadPreview& p) {
    preview_ = p;
    if (!p.error.empty()) {
        summary_->setText(oneLine(p.error));
        const QString path = workload_.trace.empty() ? toQ(p.error_field) : QStringLiteral("trace");
        setFieldError(path, oneLine(p.error));
        error_ = oneLine(p.error);
        emit edited();
        return;
    }
    const Colors& c = colorsOf(this);
    QString words = tr("%1 requests · %2 prompt tokens · %3 output tokens at most")
                        .arg(count(p.requests), count(p.prompt_total), count(p.output_total));
    if (p.closed)
        words += tr(" · %1 in flight, a new one when one finishes").arg(count(p.concurrency));
    else if (p.span_s > 0)
        words += tr(" · arriving over %1").arg(secondsText(p.span_s));
    else
        words += tr(" · all at once");
    summary_->setText(words);
    const auto bars = [&](QCustomPlot* plot, const WorkloadPreview::Histogram& h, const QString& name, bool outlined) {
        auto* b = new QCPBars(plot->xAxis, plot->yAxis);
        b->setName(name);
        b->setWidth(h.width * (outlined ? 1 : 0.86));
        b->setBrush(outlined ? Qt::NoBrush : QBrush(blend(c.panel, c.ink, 0.45)));
        b->setPen(outlined ? QPen(c.ink, 1) : Qt::NoPen);
        b->setAntialiased(false);
        QVector<double> x, y;
        for (size_t i = 0; i < h.counts.size(); ++i) {
            if (h.counts[i] == 0) continue;
            x << h.first + (double(i) + 0.5) * h.width;
            y << h.counts[i];
        }
        b->setData(x, y, true);
    };
    for (QCustomPlot* plot : {arrivals_, lengths_, share_}) plot->clearPlottables();
    bars(arrivals_, p.arrivals, tr("arrivals"), false);
    const double span = std::max(p.span_s, 1.0);
    arrivals_->xAxis->setRange(-span * 0.02, span * 1.02);
    arrivals_->xAxis->setLabel(p.closed ? tr("the first ones; the rest follow as others finish (s)") : tr("s"));
    arrivals_->yAxis->setRange(0, std::max(1.0, p.arrivals.max) * 1.1);
    if (p.span_s == 0 && arrivals_->plottableCount() > 0)
        static_cast<QCPBars*>(arrivals_->plottable(0))->setWidth(span * 0.012);

    bars(lengths_, p.prompt_tokens, tr("prompt tokens"), false);
    bars(lengths_, p.output_tokens, tr("output tokens"), true);
    const auto end = [](const WorkloadPreview::Histogram& h) { return h.first + h.width * double(h.counts.size()); };
    lengths_->xAxis->setRange(0, std::max(end(p.prompt_tokens), end(p.output_tokens)) * 1.04);
    lengths_->xAxis->setLabel(tr("tokens"));
    lengths_->yAxis->setRange(0, std::max({1.0, p.prompt_tokens.max, p.output_tokens.max}) * 1.1);

    WorkloadPreview::Histogram share{0, 1, {}, 0, 0};
    auto ticker = QSharedPointer<QCPAxisTickerText>::create();
    for (size_t i = 0; i < p.share.size(); ++i) {
        share.counts.push_back(double(p.share[i].second));
        share.max = std::max(share.max, share.counts.back());
        if (p.share.size() <= 12) ticker->addTick(double(i) + 0.5, oneLine(p.share[i].first, 14));
    }
    if (p.share.size() > 12)
        for (size_t i = 0; i < p.share.size(); i += std::max<size_t>(1, p.share.size() / 8))
            ticker->addTick(double(i) + 0.5, QString::number(i + 1));
    share_->xAxis->setTicker(ticker);
    bars(share_, share, tr("requests"), false);
    share_->xAxis->setRange(0, std::max<double>(1, double(p.share.size())));
    share_->yAxis->setRange(0, std::max(1.0, share.max) * 1.1);
    for (QCustomPlot* plot : {arrivals_, lengths_, share_}) plot->replot(QCustomPlot::rpQueuedReplot);
}

void WorkloadView::styleChanged() {
    const Colors& c = colorsOf(this);
    scroll_->setFixedWidth(px(440));
    form_box_->setContentsMargins(px(16), px(8), px(16), px(16));
    form_box_->setSpacing(px(6));
    const auto paint = [](QLabel* label, const QColor& color, const QFont& font) {
        QPalette p = label->palette();
        p.setColor(QPalette::WindowText, color);
        label->setPalette(p);
        label->setFont(font);
    };
    for (QLabel* l : sections_) {
        paint(l, c.text, uiFont(12.5, 600));
        l->setContentsMargins(0, px(10), 0, px(2));
    }
    for (QLabel* l : units_) {
        paint(l, c.muted, uiFont(12));
        l->setFixedWidth(px(76));
        l->setContentsMargins(px(8), 0, 0, 0);
    }
    for (QLabel* l : plot_titles_) paint(l, c.muted, uiFont(11.5, 500));
    for (Field& f : fields_) {
        paint(f.error, c.error, uiFont(11.5));
        paint(f.name, c.text, uiFont(12.5));
        f.name->setMinimumWidth(px(112));
    }
    paint(error_label_, c.error, uiFont(12));
    paint(summary_, c.text, uiFont(13, 500));
    auto* right = summary_->parentWidget()->layout();
    right->setContentsMargins(px(16), px(14), px(16), px(12));
    right->setSpacing(px(6));
    for (QCustomPlot* plot : {arrivals_, lengths_, share_}) {
        stylePlot(*plot, c);
        plot->xAxis->setLabelPadding(px(2));
        plot->setMinimumHeight(px(90));
    }
    if (preview_.requests > 0) showPreview(preview_);
}

void WorkloadView::open(const QString& path) {
    runInWorker(
        pool_, this, [file = toStd(path)] { return read_workload(file); },
        [this, path](Result<Workload> read) {
            if (!read) {
                emit message(oneLine(read.error().message()), true);
                emit opened(path, false);
                return;
            }
            const Workload w = *read;
            path_ = path;
            saved_ = workload_to_json(w);
            setWorkload(w, tr("open"));
            // The file's base and adapters join the library; what is there already stays.
            const std::string model = w.model == kDemoModel ? demo_model_path() : w.model;
            if (!w.model.empty() && toQ(model) != session_.modelPath()) session_.openModel(toQ(w.model));
            QStringList arguments;
            for (const std::string& a : w.adapters) arguments << toQ(a);
            if (!arguments.isEmpty()) session_.addAdapterArguments(arguments, QFileInfo(path).absolutePath());
            emit opened(path, true);
        });
}

void WorkloadView::saveTo(const QString& path) {
    runInWorker(
        pool_, this,
        [file = toStd(path), w = resolved()] {
            return write_file_atomically(file, workload_to_json(w).dump(2) + "\n");
        },
        [this, path, held = workload_to_json(workload_)](Result<void> written) {
            if (written) {
                path_ = path;
                saved_ = held;
                updateFacts();
            }
            emit message(written ? tr("Saved %1").arg(path) : oneLine(written.error().message()), !written);
            schedulePreview();
            emit saved(path, bool(written));
        });
}

void WorkloadView::openFile() {
    const QString path = QFileDialog::getOpenFileName(this, tr("Open a workload"), QFileInfo(path_).absolutePath(),
                                                      tr("Workloads (*.json)"));
    if (!path.isEmpty()) open(path);
}

void WorkloadView::save() {
    if (path_.isEmpty())
        saveAs();
    else if (modified())
        saveTo(path_);
}

void WorkloadView::saveAs() {
    const QString path = QFileDialog::getSaveFileName(
        this, tr("Save the workload"), toQ(workload_.name) + QStringLiteral(".json"), tr("Workloads (*.json)"));
    if (!path.isEmpty()) saveTo(path);
}

}  // namespace spartan

// The form of the workload editor: its fields, section by section.
#include "ui/text.h"
#include "ui/views/workload_view.h"

#include <QCheckBox>
#include <QComboBox>
#include <QDoubleSpinBox>
#include <QFormLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QSpinBox>
#include <QVBoxLayout>
#include <QWheelEvent>

#include <algorithm>
#include <climits>
#include <cmath>
#include <type_traits>

namespace spartan {

namespace {

// Spin boxes must not eat the wheel of the form that scrolls under the pointer.
template <class Box>
class CalmBox : public Box {
public:
    CalmBox() {
        this->setFocusPolicy(Qt::StrongFocus);
        this->setMinimumWidth(1);  // the form decides, not the longest entry
    }

protected:
    void wheelEvent(QWheelEvent* event) override {
        if (this->hasFocus())
            Box::wheelEvent(event);
        else
            event->ignore();
    }
};

}  // namespace

void WorkloadView::section(QVBoxLayout* form, const QString& title) {
    auto* label = new QLabel(title);
    sections_.push_back(label);
    form->addWidget(label);
    group_ = new QFormLayout;
    group_->setLabelAlignment(Qt::AlignLeft | Qt::AlignVCenter);
    group_->setFieldGrowthPolicy(QFormLayout::AllNonFixedFieldsGrow);
    form->addLayout(group_);
}

WorkloadView::Field& WorkloadView::row(const QString& path, const QString& name, const QString& unit, QWidget* editor,
                                       const QString& tip) {
    auto* cell = new QWidget;
    auto* box = new QVBoxLayout(cell);
    box->setContentsMargins(0, 0, 0, 0);
    box->setSpacing(0);
    auto* line = new QHBoxLayout;
    line->setContentsMargins(0, 0, 0, 0);
    line->addWidget(editor, 1);
    // Without a unit the place stays empty, so that all fields end on one line.
    auto* grey = new QLabel(unit);
    units_.push_back(grey);
    line->addWidget(grey);
    box->addLayout(line);
    auto* error = new QLabel;
    error->setTextFormat(Qt::PlainText);
    error->setWordWrap(true);
    error->hide();
    box->addWidget(error);
    auto* label = new QLabel(name);
    label->setBuddy(editor);
    editor->setToolTip(plainTooltip(tip));
    label->setToolTip(plainTooltip(tip));
    editor->setAccessibleName(name);
    editor->setAccessibleDescription(tip);
    group_->addRow(label, cell);
    fields_.push_back({path, label, editor, error, {}, {}, {}});
    return fields_.back();
}

template <class Value>
void WorkloadView::integer(const QString& path, const QString& name, const QString& unit, int64_t min, int64_t max,
                           Value value, const QString& tip, std::function<bool()> used, const QString& words_for_min) {
    using Integer = std::decay_t<decltype(value(workload_))>;
    auto* box = new CalmBox<QSpinBox>;
    box->setRange(int(min), int(std::min<int64_t>(max, INT_MAX)));
    box->setGroupSeparatorShown(true);
    box->setAccelerated(true);
    box->setSpecialValueText(words_for_min);
    Field& f = row(path, name, unit, box, tip);
    f.load = [this, box, value] { box->setValue(int(value(workload_))); };
    f.used = std::move(used);
    connect(box, &QSpinBox::valueChanged, this,
            [this, path, value](int v) { edit(path, [&](Workload& w) { value(w) = Integer(v); }); });
}

void WorkloadView::megabytes(const QString& path, const QString& name, std::function<int64_t&(Workload&)> bytes,
                             const QString& tip) {
    auto* box = new CalmBox<QDoubleSpinBox>;
    box->setRange(0, 7e7);
    box->setDecimals(0);
    box->setSpecialValueText(tr("automatic"));
    box->setGroupSeparatorShown(true);
    Field& f = row(path, name, tr("MB"), box, tip);
    f.load = [this, box, bytes] { box->setValue(double(bytes(workload_)) / 1e6); };
    connect(box, &QDoubleSpinBox::valueChanged, this,
            [this, path, bytes](double v) { edit(path, [&](Workload& w) { bytes(w) = int64_t(v * 1e6); }); });
}

void WorkloadView::number(const QString& path, const QString& name, const QString& unit, double min, double max,
                          int decimals, std::function<double&(Workload&)> value, const QString& tip,
                          std::function<bool()> used) {
    auto* box = new CalmBox<QDoubleSpinBox>;
    box->setRange(min, max);
    box->setDecimals(decimals);
    box->setAccelerated(true);
    box->setSingleStep(std::pow(10.0, -std::min(decimals, 1)));
    Field& f = row(path, name, unit, box, tip);
    f.load = [this, box, value] { box->setValue(value(workload_)); };
    f.used = std::move(used);
    connect(box, &QDoubleSpinBox::valueChanged, this,
            [this, path, value](double v) { edit(path, [&](Workload& w) { value(w) = v; }); });
}

void WorkloadView::choice(const QString& path, const QString& name,
                          const std::vector<std::pair<QString, QString>>& options,
                          std::function<std::string&(Workload&)> value, const QString& tip) {
    const auto get = [value](const Workload& w) { return toQ(value(const_cast<Workload&>(w))); };
    choice(
        path, name, options, get, [value](Workload& w, const QString& id) { value(w) = toStd(id); }, tip);
}

void WorkloadView::choice(const QString& path, const QString& name,
                          const std::vector<std::pair<QString, QString>>& options,
                          std::function<QString(const Workload&)> get,
                          std::function<void(Workload&, const QString&)> set, const QString& tip) {
    auto* box = new CalmBox<QComboBox>;
    for (const auto& [id, words] : options) box->addItem(words, id);
    Field& f = row(path, name, {}, box, tip);
    f.load = [this, box, get] { box->setCurrentIndex(box->findData(get(workload_))); };
    connect(box, &QComboBox::currentIndexChanged, this,
            [this, box, path, set] { edit(path, [&](Workload& w) { set(w, box->currentData().toString()); }); });
}

void WorkloadView::flag(const QString& path, const QString& name, std::function<bool&(Workload&)> value,
                        const QString& tip) {
    auto* box = new QCheckBox;
    Field& f = row(path, name, {}, box, tip);
    f.load = [this, box, value] { box->setChecked(value(workload_)); };
    connect(box, &QCheckBox::toggled, this,
            [this, path, value](bool v) { edit(path, [&](Workload& w) { value(w) = v; }); });
}

void WorkloadView::text(const QString& path, const QString& name, std::function<QString(const Workload&)> get,
                        std::function<bool(Workload&, const QString&)> set, const QString& tip,
                        const QString& placeholder) {
    auto* box = new QLineEdit;
    box->setPlaceholderText(placeholder);
    box->setMaxLength(4096);
    Field& f = row(path, name, {}, box, tip);
    f.load = [this, box, get] {
        if (box->text() != get(workload_)) box->setText(get(workload_));
    };
    connect(box, &QLineEdit::textChanged, this, [this, path, set](const QString& typed) {
        if (loading_) return;
        Workload after = workload_;
        const bool read = set(after, typed);
        setMistyped(path, read ? QString() : tr("found “%1”, expected a number").arg(typed.left(40)));
        if (!read) return;
        edit(path, [&](Workload& w) { w = after; });
    });
}

void WorkloadView::length(const QString& path, const QString& name,
                          std::function<LengthDistribution&(Workload&)> value) {
    const auto kind = [this, value](const char* k) {
        return [this, value, k = std::string(k)] { return value(workload_).kind == k; };
    };
    const auto bounded = [this, value] { return value(workload_).kind != "fixed"; };
    choice(
        path + QStringLiteral(".kind"), name,
        {{QStringLiteral("fixed"), tr("fixed")},
         {QStringLiteral("uniform"), tr("uniform")},
         {QStringLiteral("lognormal"), tr("lognormal")}},
        [value](Workload& w) -> std::string& { return value(w).kind; }, tr("How the lengths are drawn"));
    constexpr int64_t most = 1 << 20;
    integer(
        path + QStringLiteral(".value"), tr("length"), tr("tokens"), 1, most,
        [value](Workload& w) -> int64_t& { return value(w).value; }, tr("Every length"), kind("fixed"));
    number(
        path + QStringLiteral(".mean"), tr("mean"), tr("tokens"), 1, double(most), 1,
        [value](Workload& w) -> double& { return value(w).mean; },
        tr("Mean of the lengths before they are cut to min and max"), kind("lognormal"));
    number(
        path + QStringLiteral(".sigma"), tr("sigma"), {}, 0, 10, 3,
        [value](Workload& w) -> double& { return value(w).sigma; },
        tr("Standard deviation of the logarithm of the lengths"), kind("lognormal"));
    integer(
        path + QStringLiteral(".min"), tr("shortest"), tr("tokens"), 1, most,
        [value](Workload& w) -> int64_t& { return value(w).min; }, tr("Shortest length, included"), bounded);
    integer(
        path + QStringLiteral(".max"), tr("longest"), tr("tokens"), 1, most,
        [value](Workload& w) -> int64_t& { return value(w).max; }, tr("Longest length, included"), bounded);
}

void WorkloadView::buildForm(QVBoxLayout* form) {
    fields_.reserve(64);  // row() hands out references
    buildPresets(form);
    buildRequests(form);
    buildArrivals(form);
    buildAdapters(form);
    buildLengths(form);
    buildLimits(form);
    section(form, tr("Engine"));
    buildAdapterServing();
    buildEngine();
    error_label_ = new QLabel;
    error_label_->setTextFormat(Qt::PlainText);
    error_label_->setWordWrap(true);
    form->addWidget(error_label_);
    form->addStretch();
}

void WorkloadView::buildPresets(QVBoxLayout* form) {
    section(form, tr("Preset"));
    presets_ = new CalmBox<QComboBox>;
    presets_->addItem(tr("choose…"));
    presets_->addItem(tr("Demo: 64 requests, adapters and base in turn"));
    presets_->addItem(tr("Paper: round robin, 512 at once, 100 tokens out"));
    presets_->addItem(tr("Poisson 2 a second, Zipf over the adapters"));
    presets_->addItem(tr("Closed: 32 in flight, uniform"));
    row(QStringLiteral("preset"), tr("start from"), {}, presets_, tr("Fills the form; undoable"));
    connect(presets_, &QComboBox::activated, this, [this](int index) {
        Workload w = index == 1 ? demoWorkload() : paperWorkload();
        if (index == 3) {
            w.name = "poisson-zipf";
            w.requests = 128;
            w.arrival.kind = "poisson";
            w.arrival.rate = 2;
            w.assignment.kind = "zipf";
        } else if (index == 4) {
            w.name = "closed-32";
            w.requests = 256;
            w.arrival.kind = "closed";
            w.assignment.kind = "uniform";
        }
        if (index > 0) setWorkload(w, tr("preset"));
        presets_->setCurrentIndex(0);
    });
    text(
        QStringLiteral("name"), tr("name"), [](const Workload& w) { return toQ(w.name); },
        [](Workload& w, const QString& s) {
            w.name = toStd(s);
            return true;
        },
        tr("Name of the workload, for files and recordings"), tr("workload"));
}

void WorkloadView::buildRequests(QVBoxLayout* form) {
    section(form, tr("Requests"));
    integer(
        QStringLiteral("requests"), tr("requests"), {}, 1, 10'000'000,
        [](Workload& w) -> int64_t& { return w.requests; }, tr("How many, warm-up not counted"),
        [this] { return workload_.trace.empty(); });
    text(
        QStringLiteral("seed"), tr("seed"), [](const Workload& w) { return QString::number(w.seed); },
        [](Workload& w, const QString& s) {
            bool ok = false;
            const qulonglong v = s.toULongLong(&ok);
            if (ok) w.seed = v;
            return ok;
        },
        tr("The same seed gives the same requests"), QStringLiteral("42"));
    flag(
        QStringLiteral("ignore_eos"), tr("ignore end of text"), [](Workload& w) -> bool& { return w.ignore_eos; },
        tr("Answers always reach their output length"));
    integer(
        QStringLiteral("warmup"), tr("warm-up"), tr("requests"), 0, 1'000'000,
        [](Workload& w) -> int64_t& { return w.warmup; },
        tr("Extra requests before the measured ones; left out of every metric"));
    integer(
        QStringLiteral("repeats"), tr("repeats"), {}, 1, 1'000, [](Workload& w) -> int64_t& { return w.repeats; },
        tr("The whole workload, one time after the other"));
}

void WorkloadView::buildArrivals(QVBoxLayout* form) {
    section(form, tr("Arrivals"));
    const auto arrival = [this](std::initializer_list<const char*> kinds) {
        std::vector<std::string> all(kinds.begin(), kinds.end());
        return [this, all] { return std::find(all.begin(), all.end(), workload_.arrival.kind) != all.end(); };
    };
    choice(
        QStringLiteral("arrival.kind"), tr("arrival"),
        {{QStringLiteral("burst"), tr("all at once")},
         {QStringLiteral("closed"), tr("closed: fixed in flight")},
         {QStringLiteral("constant"), tr("constant rate")},
         {QStringLiteral("poisson"), tr("Poisson")},
         {QStringLiteral("gamma"), tr("gamma")}},
        [](Workload& w) -> std::string& { return w.arrival.kind; }, tr("When requests arrive"));
    number(
        QStringLiteral("arrival.rate"), tr("rate"), tr("requests/s"), 0.001, 1e6, 3,
        [](Workload& w) -> double& { return w.arrival.rate; }, tr("Mean arrivals a second"),
        arrival({"constant", "poisson", "gamma"}));
    number(
        QStringLiteral("arrival.cv"), tr("variation"), {}, 0.01, 100, 2,
        [](Workload& w) -> double& { return w.arrival.cv; },
        tr("Coefficient of variation of the gaps: 1 is Poisson, more is burstier"), arrival({"gamma"}));
    integer(
        QStringLiteral("arrival.concurrency"), tr("in flight"), tr("requests"), 1, 10'000'000,
        [](Workload& w) -> int64_t& { return w.arrival.concurrency; }, tr("A new one arrives when one finishes"),
        arrival({"closed"}));
}

void WorkloadView::buildAdapters(QVBoxLayout* form) {
    section(form, tr("Adapters"));
    choice(
        QStringLiteral("assignment.kind"), tr("assignment"),
        {{QStringLiteral("round_robin"), tr("round robin")},
         {QStringLiteral("uniform"), tr("uniform")},
         {QStringLiteral("power"), tr("power law")},
         {QStringLiteral("zipf"), tr("Zipf")},
         {QStringLiteral("single"), tr("the first only")}},
        [](Workload& w) -> std::string& { return w.assignment.kind; }, tr("Which adapter a request asks for"));
    number(
        QStringLiteral("assignment.alpha"), tr("alpha"), {}, 0, 100, 2,
        [](Workload& w) -> double& { return w.assignment.alpha; }, tr("Exponent of the power law or of Zipf"),
        [this] { return workload_.assignment.kind == "power" || workload_.assignment.kind == "zipf"; });
    flag(
        QStringLiteral("assignment.include_base"), tr("base takes part"),
        [](Workload& w) -> bool& { return w.assignment.include_base; },
        tr("The base without an adapter counts as one more"));
}

void WorkloadView::buildLengths(QVBoxLayout* form) {
    section(form, tr("Lengths"));
    length(QStringLiteral("prompt_tokens"), tr("prompts"),
           [](Workload& w) -> LengthDistribution& { return w.prompt_tokens; });
    length(QStringLiteral("output_tokens"), tr("answers"),
           [](Workload& w) -> LengthDistribution& { return w.output_tokens; });
    text(
        QStringLiteral("trace"), tr("trace file"), [](const Workload& w) { return toQ(w.trace); },
        [](Workload& w, const QString& s) {
            w.trace = toStd(s);
            return true;
        },
        tr("A CSV file, one row per request, instead of requests, arrival, assignment and lengths"), tr("none"));
}

void WorkloadView::buildLimits(QVBoxLayout* form) {
    section(form, tr("Limits wanted (SLO)"));
    const auto limit = [this](const QString& path, const QString& name,
                              std::function<std::optional<double>&(Workload&)> value) {
        text(
            path, name,
            [value](const Workload& w) {
                const std::optional<double> v = value(const_cast<Workload&>(w));
                return v ? QString::number(*v, 'g', 10) : QString();
            },
            [value](Workload& w, const QString& s) {
                bool ok = true;
                const double v = s.isEmpty() ? 0 : s.toDouble(&ok);
                if (!ok || !std::isfinite(v) || v < 0) return false;
                value(w) = s.isEmpty() ? std::nullopt : std::optional(v);
                return true;
            },
            tr("Milliseconds; empty: no limit"), tr("none, ms"));
    };
    limit(QStringLiteral("slo.ttft_ms"), tr("first token"),
          [](Workload& w) -> std::optional<double>& { return w.slo.ttft_ms; });
    limit(QStringLiteral("slo.itl_ms"), tr("between tokens"),
          [](Workload& w) -> std::optional<double>& { return w.slo.itl_ms; });
    limit(QStringLiteral("slo.e2e_ms"), tr("end to end"),
          [](Workload& w) -> std::optional<double>& { return w.slo.e2e_ms; });
}

// How adapters are kept and meet the base's weights.
void WorkloadView::buildAdapterServing() {
    choice(
        QStringLiteral("engine.adapter_strategy"), tr("strategy"),
        {{QStringLiteral("folded"), tr("folded (default)")},
         {QStringLiteral("common_block"), tr("common block, as published")},
         {QStringLiteral("sequential"), tr("sequential, as PEFT")},
         {QStringLiteral("merged"), tr("merged, one at a time")}},
        [](Workload& w) -> std::string& { return w.engine.adapter_strategy; },
        tr("How the adapters of a batch meet the base's weights. The answers are the same up to rounding; the others "
           "are "
           "there to compare with folded.\n"
           "folded: each adapter is multiplied out into one rotation when it is loaded; a whole batch takes one pass.\n"
           "common block: SpartanServe as published. Factors cut to the batch's common block size, one block-sparse "
           "product each; an adapter takes up to twice its room while it runs.\n"
           "sequential: a whole pass over the weights for each adapter of a step, as PEFT serves.\n"
           "merged: one adapter at a time multiplied into a copy of the weights, whose memory is taken at start; "
           "requests for others wait."));
    choice(
        QStringLiteral("engine.residency"), tr("residency"),
        {{QStringLiteral("resident"), tr("resident, in order")}, {QStringLiteral("stream"), tr("stream, others pass")}},
        [](Workload& w) -> std::string& { return w.engine.residency; },
        tr("What happens to a request whose adapter finds no room in the pool.\n"
           "resident: requests are served in their order, so it holds up those behind it.\n"
           "stream: others pass it, for at most 2 s; adapters live in host memory and come in as they are needed."));
    integer(
        QStringLiteral("engine.adapter_slots"), tr("adapters at once"), {}, 0, 1 << 20,
        [](Workload& w) -> int32_t& { return w.engine.adapter_slots; },
        tr("With residency stream: adapters in the pool at once, at most"),
        [this] { return workload_.engine.residency == "stream" || workload_.engine.adapter_slots != 0; },
        tr("as many as fit"));
}

void WorkloadView::buildEngine() {
    integer(
        QStringLiteral("engine.max_batch_tokens"), tr("tokens a step"), {}, 1, 1 << 16,
        [](Workload& w) -> int32_t& { return w.engine.max_batch_tokens; },
        tr("Prefill and decode tokens of one step at most"));
    integer(
        QStringLiteral("engine.max_batch_rows"), tr("rows a step"), {}, 1, 1 << 16,
        [](Workload& w) -> int32_t& { return w.engine.max_batch_rows; }, tr("Requests of one step at most"));
    integer(
        QStringLiteral("engine.block_tokens"), tr("page"), tr("tokens"), 1, 1024,
        [](Workload& w) -> int32_t& { return w.engine.block_tokens; },
        tr("Tokens whose keys and values of one layer lie in one page of the pool"));
    megabytes(
        QStringLiteral("engine.pool_bytes"), tr("pool"), [](Workload& w) -> int64_t& { return w.engine.pool_bytes; },
        tr("One allocation for keys, values and adapters. Automatic: on the CPU the smaller of 4 GiB and a quarter of "
           "the available memory, on a GPU 90 % of what weights and workspace leave"));
    megabytes(
        QStringLiteral("engine.adapter_bytes"), tr("adapters in host"),
        [](Workload& w) -> int64_t& { return w.engine.adapter_bytes; },
        tr("Host memory for all adapters of the run, at most. Automatic: half of what is available"));
    choice(
        QStringLiteral("engine.batch_invariant"), tr("batch invariant"),
        {{QStringLiteral("automatic"), tr("automatic")},
         {QStringLiteral("true"), tr("on: same bits in any batch")},
         {QStringLiteral("false"), tr("off: fastest")}},
        [](const Workload& w) {
            const std::optional<bool>& on = w.engine.batch_invariant;
            return !on ? QStringLiteral("automatic") : *on ? QStringLiteral("true") : QStringLiteral("false");
        },
        [](Workload& w, const QString& id) {
            w.engine.batch_invariant =
                id == QLatin1String("automatic") ? std::nullopt : std::optional(id == QLatin1String("true"));
        },
        tr("Whether a request's answer has the same bits alone and in any batch. On a GPU that costs some speed and is "
           "off unless asked for; every kernel on the CPU is so, and off is refused there."));
    integer(
        QStringLiteral("engine.watchdog_s"), tr("not answering after"), tr("s"), 0, 86'400,
        [](Workload& w) -> int32_t& { return w.engine.watchdog_s; },
        tr("Seconds without an answer of the device after which the window says so and offers to end the program; on "
           "the command line the run ends then. A large model's prefill may take long on a slow device."),
        {}, tr("never"));
    flag(
        QStringLiteral("engine.graphs"), tr("CUDA graphs"), [](Workload& w) -> bool& { return w.engine.graphs; },
        tr("Replays the launches of steps of a known shape, with the same answers. Without effect on the CPU, which "
           "launches nothing."));
    flag(
        QStringLiteral("engine.phase_times"), tr("phase times"),
        [](Workload& w) -> bool& { return w.engine.phase_times; },
        tr("Times each phase of a step on the GPU, in µs. That slows the steps and excludes graphs. A CPU always tells "
           "its phases apart."));
}

}  // namespace spartan

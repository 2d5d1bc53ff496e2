#include "ui/views/playground_view.h"

#include "core/tokenizer/chat_template.h"
#include "ui/text.h"
#include "ui/worker.h"

#include <QComboBox>
#include <QDoubleSpinBox>
#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QLineEdit>
#include <QMenu>
#include <QPainter>
#include <QPlainTextEdit>
#include <QPushButton>
#include <QRegularExpression>
#include <QScrollBar>
#include <QShortcut>
#include <QSpinBox>
#include <QTextBlockFormat>
#include <QTextEdit>
#include <QTimer>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <unordered_set>

namespace spartan {

namespace {
constexpr int kMaxDiffWords = 600;  // the table of the longest common subsequence is the square of this
}

std::vector<std::pair<int, int>> changedWords(const QString& text, const QString& reference) {
    static const QRegularExpression word(QStringLiteral("\\S+"));
    struct Word {
        QString text;
        int start, length;
    };
    const auto split = [](const QString& s) {
        std::vector<Word> words;
        for (auto it = word.globalMatch(s); it.hasNext() && int(words.size()) < kMaxDiffWords;) {
            const auto m = it.next();
            words.push_back({m.captured(), int(m.capturedStart()), int(m.capturedLength())});
        }
        return words;
    };
    const std::vector<Word> a = split(text), b = split(reference);
    const size_t width = b.size() + 1;
    std::vector<uint16_t> longest((a.size() + 1) * width, 0);
    for (size_t i = a.size(); i-- > 0;)
        for (size_t j = b.size(); j-- > 0;)
            longest[i * width + j] = a[i].text == b[j].text
                                         ? uint16_t(longest[(i + 1) * width + j + 1] + 1)
                                         : std::max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    std::vector<std::pair<int, int>> changed;
    for (size_t i = 0, j = 0; i < a.size();) {
        if (j < b.size() && a[i].text == b[j].text) {
            ++i, ++j;
        } else if (j < b.size() && longest[i * width + j + 1] >= longest[(i + 1) * width + j]) {
            ++j;
        } else {
            // Neighbours join, so that a rewritten clause is one mark.
            const int end = a[i].start + a[i].length;
            if (!changed.empty() && i > 0 &&
                changed.back().first + changed.back().second == a[i - 1].start + a[i - 1].length)
                changed.back().second = end - changed.back().first;
            else
                changed.emplace_back(a[i].start, a[i].length);
            ++i;
        }
    }
    return changed;
}

// One answer: header, text, and figures that stay after it is done.
class PlaygroundView::Column : public QWidget {
public:
    Column(int entry, const QString& title, const QString& facts, QWidget* parent)
        : QWidget(parent),
          key(entry),
          name(title),
          geometry(facts),
          text(new QTextEdit(this)),
          close(new QToolButton(this)) {
        setObjectName(QStringLiteral("column"));
        setAccessibleName(tr("Answer of %1").arg(name));
        setToolTip(plainTooltip(
            tr("%1\n%2\nTTFT: from Send to the first token. Then the mean gap between tokens, the tokens, and tokens a "
               "second while they came.")
                .arg(name, geometry)));
        text->setReadOnly(true);
        text->setMinimumWidth(1);
        text->setAcceptRichText(false);
        text->setTabChangesFocus(true);
        text->setUndoRedoEnabled(false);
        text->setFrameShape(QFrame::NoFrame);
        text->setProperty("answer", true);
        text->setAccessibleName(tr("Answer of %1").arg(name));
        close->setText(QStringLiteral("×"));
        close->setToolTip(tr("Remove this column"));
        close->setAccessibleName(tr("Remove the column of %1").arg(name));
        close->setVisible(key >= 0);
        box = new QVBoxLayout(this);
        box->addWidget(text, 1);
        restyle();
    }
    void restyle() {
        const Colors& c = colorsOf(this);
        box->setContentsMargins(px(8), px(34), px(4), px(32));
        text->setFont(uiFont(14));
        text->setPlaceholderText(key < 0 ? tr("The answer of the base without an adapter, then beside it the same "
                                              "prompt through each adapter, all in one batch.")
                                         : QString());
        text->setStyleSheet(
            QStringLiteral("QTextEdit { background: transparent; border: none; padding: 0; color: %1; }")
                .arg(c.text.name()));
        close->setFixedSize(px(20), px(20));
    }
    void clear() {
        text->clear();
        request.reset();
        decoder.reset();
        arrival_us = first_us = last_us = -1;
        tokens = 0;
        finish = FinishReason::none;
        note.clear();
    }
    // What has been decoded joins the end; the reader's own scrolling is left alone.
    void append(const QString& more) {
        if (more.isEmpty()) return;
        QScrollBar* bar = text->verticalScrollBar();
        const bool at_end = bar->value() >= bar->maximum() - 2;
        QTextCursor cursor(text->document());
        cursor.movePosition(QTextCursor::End);
        cursor.setBlockFormat(spacing());
        cursor.insertText(more);  // plain text, whatever it holds
        if (at_end) bar->setValue(bar->maximum());
    }
    static QTextBlockFormat spacing() {
        QTextBlockFormat f;
        f.setLineHeight(140, QTextBlockFormat::ProportionalHeight);
        return f;
    }
    void replace(const QString& all) {
        text->clear();
        append(all);
    }
    QString footer() const {
        if (!note.isEmpty()) return note;
        if (arrival_us < 0) return {};
        if (first_us < 0) return tr("waiting");
        QString s = tr("TTFT %1").arg(msText(double(first_us - arrival_us) / 1000));
        const double gap = tokens > 1 ? double(last_us - first_us) / double(tokens - 1) : 0;
        if (tokens > 1) s += QStringLiteral(" · ") + msText(gap / 1000);
        // How it ended stands with the tokens: a narrow column drops facts from the end.
        QString much = counted(tokens, tr("token"), tr("tokens"));
        if (finish == FinishReason::none) much += QStringLiteral(" …");
        if (finish == FinishReason::length) much += tr(" (max)");
        if (finish == FinishReason::stop) much += tr(", stop string");
        if (finish == FinishReason::cancelled) much += tr(", stopped");
        s += QStringLiteral(" · ") + much;
        if (gap > 0) s += tr(" · %1 tok/s").arg(rateText(1e6 / gap));
        return s;
    }
    bool running() const { return request && finish == FinishReason::none; }

    int key;  // of the library; -1: base
    QString name, geometry;
    QTextEdit* text;
    QToolButton* close;
    QVBoxLayout* box;
    std::optional<RequestId> request;
    std::unique_ptr<StreamingDecoder> decoder;
    int64_t arrival_us = -1, first_us = -1, last_us = -1, tokens = 0;
    FinishReason finish = FinishReason::none;
    QString note;

protected:
    void resizeEvent(QResizeEvent*) override { close->move(width() - close->width() - px(4), px(6)); }
    void paintEvent(QPaintEvent*) override {
        const Colors& c = colorsOf(this);
        QPainter p(this);
        p.setPen(c.border);
        p.setBrush(c.panel);
        p.drawRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5));
        p.fillRect(QRectF(0, 0, width(), px(2)), key < 0 ? c.ink : c.prefill);
        p.setPen(c.hairline);
        p.drawLine(1, px(30), width() - 2, px(30));
        p.drawLine(1, height() - px(30), width() - 2, height() - px(30));
        const QRectF head(px(12), px(2), width() - px(key < 0 ? 24 : 40), px(28));
        p.setFont(uiFont(12.5, 600));
        p.setPen(c.text);
        const QFontMetricsF bold(p.font());
        const QString shown = bold.elidedText(name, Qt::ElideRight, head.width() * 0.65);
        drawFigures(p, head, Qt::AlignLeft | Qt::AlignVCenter, shown);
        p.setFont(uiFont(11.5));
        p.setPen(c.muted);
        const QFontMetricsF small(p.font());
        drawFigures(p, head, Qt::AlignRight | Qt::AlignVCenter,
                    small.elidedText(geometry, Qt::ElideRight, head.width() - bold.horizontalAdvance(shown) - px(10)));
        if (finish == FinishReason::error || !note.isEmpty()) p.setPen(c.error);
        const QRectF foot(px(12), height() - px(30), width() - px(24), px(30));
        drawFigures(p, foot, Qt::AlignLeft | Qt::AlignVCenter, fitFacts(small, footer(), foot.width()));
    }
};

PlaygroundView::PlaygroundView(Session& session, QWidget* parent)
    : Panel(QStringLiteral("playground"), tr("Playground"), parent),
      session_(session),
      prompt_(new QPlainTextEdit),
      facts_(new QLabel),
      send_(new QPushButton(tr("Send ⏎"))),
      stop_(new QPushButton(tr("Stop"))),
      add_(new QPushButton(tr("+ Column"))),
      settings_(new QWidget),
      system_(new QPlainTextEdit),
      temperature_(new QDoubleSpinBox),
      top_p_(new QDoubleSpinBox),
      top_k_(new QSpinBox),
      max_tokens_(new QSpinBox),
      seed_(new QLineEdit(QStringLiteral("7"))),
      stop_strings_(new QLineEdit),
      compare_(new QComboBox),
      row_(new QHBoxLayout),
      diff_timer_(new QTimer(this)),
      count_timer_(new QTimer(this)) {
    pool_.setMaxThreadCount(1);
    auto* body = new QWidget;
    auto* box = new QVBoxLayout(body);

    auto* top = new QHBoxLayout;
    auto* left = new QVBoxLayout;
    prompt_->setPlaceholderText(tr("Ask something…"));
    prompt_->setPlainText(tr("Explain what a GPU does."));
    prompt_->setAccessibleName(tr("Prompt"));
    prompt_->setTabChangesFocus(true);
    left->addWidget(prompt_);
    facts_->setTextFormat(Qt::PlainText);
    facts_->setMinimumWidth(1);
    auto* below = new QHBoxLayout;
    below->addWidget(facts_, 1);
    for (const QString& sample :
         {tr("Explain what a GPU does."), tr("Give me three tips for learning to swim."), tr("Why is the sky blue?")}) {
        auto* b = new QPushButton(sample);
        b->setProperty("link", true);
        b->setProperty("small", true);
        b->setToolTip(plainTooltip(tr("Take this as the prompt")));
        connect(b, &QPushButton::clicked, this, [this, sample] { prompt_->setPlainText(sample); });
        below->addWidget(b);
    }
    left->addLayout(below);
    top->addLayout(left, 1);
    send_->setProperty("primary", true);
    send_->setToolTip(plainTooltip(tr("Send to every column (Ctrl+Enter)")));
    top->addWidget(send_, 0, Qt::AlignTop);
    top->addWidget(stop_, 0, Qt::AlignTop);
    box->addLayout(top);

    auto* line = new QHBoxLayout(settings_);
    line->setContentsMargins(0, 0, 0, 0);
    const auto field = [&](const QString& name, QWidget* editor, const QString& tip, int stretch = 0) {
        auto* cell = new QVBoxLayout;
        cell->setSpacing(1);
        auto* label = new QLabel(name);
        label->setProperty("quiet", true);
        label->setBuddy(editor);
        cell->addWidget(label);
        cell->addWidget(editor);
        editor->setToolTip(plainTooltip(tip));
        editor->setAccessibleName(name);
        editor->setAccessibleDescription(tip);
        line->addLayout(cell, stretch);
    };
    system_->setPlaceholderText(tr("the model's default"));
    system_->setTabChangesFocus(true);
    system_->setVerticalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    system_->setMinimumWidth(1);
    field(tr("system prompt"), system_, tr("Empty: the model's own default"), 3);
    temperature_->setRange(0, 5);
    temperature_->setSingleStep(0.1);
    temperature_->setSpecialValueText(tr("greedy"));
    field(tr("temperature"), temperature_, tr("0 is greedy: the likeliest token each time"));
    top_p_->setRange(0.01, 1);
    top_p_->setSingleStep(0.05);
    top_p_->setValue(1);
    field(tr("top-p"), top_p_, tr("Only the likeliest tokens that make up this share; 1: all"));
    top_k_->setRange(0, 1'000'000);
    top_k_->setSpecialValueText(tr("all"));
    field(tr("top-k"), top_k_, tr("Only so many of the likeliest tokens; 0: all"));
    field(tr("seed"), seed_, tr("The same seed gives the same answer"));
    max_tokens_->setRange(1, 1 << 20);
    max_tokens_->setValue(96);
    field(tr("max tokens"), max_tokens_, tr("Answers end here at the latest"));
    stop_strings_->setPlaceholderText(tr("none"));
    stop_strings_->setMinimumWidth(1);
    field(tr("stop strings"), stop_strings_, tr("Answers end before any of these; several are separated by |"), 1);
    field(tr("mark what differs from"), compare_, tr("Words that are not in the chosen column's answer are marked"));
    auto* cell = new QVBoxLayout;
    cell->addStretch();
    cell->addWidget(add_);
    line->addLayout(cell);
    box->addWidget(settings_);
    box->addLayout(row_, 1);
    setBody(body);

    const auto bind = [this](const QKeySequence& keys, auto slot) {
        auto* s = new QShortcut(keys, this, nullptr, nullptr, Qt::WidgetWithChildrenShortcut);
        connect(s, &QShortcut::activated, this, slot);
    };
    bind(QKeySequence(Qt::CTRL | Qt::Key_Return), &PlaygroundView::send);
    bind(QKeySequence(Qt::CTRL | Qt::Key_Enter), &PlaygroundView::send);
    bind(QKeySequence(Qt::Key_Escape), &PlaygroundView::stop);
    connect(send_, &QPushButton::clicked, this, &PlaygroundView::send);
    connect(stop_, &QPushButton::clicked, this, &PlaygroundView::stop);
    connect(add_, &QPushButton::clicked, this, [this] {
        QMenu menu(this);
        for (const LibraryEntry& e : session_.library().entries()) {
            if (e.kind != LibraryEntry::Kind::adapter || e.state != LibraryEntry::State::ready) continue;
            if (std::any_of(columns_.begin(), columns_.end(), [&](const Column* c) { return c->key == e.key; }))
                continue;
            menu.addAction(menuText(toQ(e.name)), this, [this, key = e.key] {
                std::vector<int> keys;
                for (const Column* c : columns_)
                    if (c->key >= 0) keys.push_back(c->key);
                keys.push_back(key);
                setColumns(keys);
            });
        }
        if (menu.isEmpty()) menu.addAction(tr("no further adapter is ready"))->setEnabled(false);
        menu.exec(add_->mapToGlobal(QPoint(0, add_->height())));
    });
    connect(compare_, &QComboBox::currentIndexChanged, this, &PlaygroundView::updateDiff);
    diff_timer_->setSingleShot(true);
    diff_timer_->setInterval(300);
    connect(diff_timer_, &QTimer::timeout, this, &PlaygroundView::updateDiff);
    count_timer_->setSingleShot(true);
    count_timer_->setInterval(150);
    connect(count_timer_, &QTimer::timeout, this, &PlaygroundView::countPrompt);
    for (QPlainTextEdit* edit : {prompt_, system_})
        connect(edit, &QPlainTextEdit::textChanged, count_timer_, qOverload<>(&QTimer::start));
    connect(seed_, &QLineEdit::textChanged, this, &PlaygroundView::updateControls);
    connect(&session_, &Session::recordsArrived, this, &PlaygroundView::takeRecords);
    connect(&session_, &Session::modelChanged, this, [this] {
        chosen_by_hand_ = false;
        rebuildColumns();
        count_timer_->start();
    });
    for (const auto signal : {&QAbstractItemModel::rowsInserted, &QAbstractItemModel::rowsRemoved})
        connect(&session_.library(), signal, this, &PlaygroundView::chooseDefaultColumns);
    connect(&session_.library(), &QAbstractItemModel::dataChanged, this, [this](const QModelIndex& from) {
        if (from.column() == 0) chooseDefaultColumns();
    });
    rebuildColumns();
}

void PlaygroundView::chooseDefaultColumns() {
    const LibraryModel& library = session_.library();
    std::vector<int> keys;
    for (const Column* c : columns_) {
        const LibraryEntry* e = c->key >= 0 ? library.find(c->key) : nullptr;
        if (e && e->state == LibraryEntry::State::ready) keys.push_back(c->key);
    }
    // Until a person chooses: the first three adapters that are ready.
    if (!chosen_by_hand_)
        for (const LibraryEntry& e : library.entries())
            if (int(keys.size()) < 3 && e.kind == LibraryEntry::Kind::adapter &&
                e.state == LibraryEntry::State::ready && std::find(keys.begin(), keys.end(), e.key) == keys.end())
                keys.push_back(e.key);
    std::vector<int> now;
    for (const Column* c : columns_)
        if (c->key >= 0) now.push_back(c->key);
    if (keys == now || generating()) return;
    const bool by_hand = chosen_by_hand_;
    setColumns(keys);
    chosen_by_hand_ = by_hand;
}

void PlaygroundView::setColumns(const std::vector<int>& keys) {
    if (generating()) stop();
    chosen_by_hand_ = true;
    std::vector<Column*> kept;
    std::vector<int> wanted{-1};
    for (const int key : keys)
        if (int(wanted.size()) <= kMaxAdapters && session_.library().find(key)) wanted.push_back(key);
    for (const int key : wanted) {
        const auto found =
            std::find_if(columns_.begin(), columns_.end(), [&](const Column* c) { return c && c->key == key; });
        if (found != columns_.end()) {
            kept.push_back(*found);
            *found = nullptr;
            continue;
        }
        const LibraryEntry* e = key >= 0 ? session_.library().find(key) : nullptr;
        const QString model = session_.model() ? toQ(session_.model()->info.name) : tr("no base loaded");
        kept.push_back(new Column(key, e ? oneLine(e->name, 80) : tr("base"), e ? toQ(e->geometry) : model, this));
        connect(kept.back()->close, &QToolButton::clicked, this, [this, key] {
            std::vector<int> rest;
            for (const Column* c : columns_)
                if (c->key >= 0 && c->key != key) rest.push_back(c->key);
            setColumns(rest);
        });
    }
    for (Column* c : columns_)
        if (c) {
            row_->removeWidget(c);
            c->hide();
            c->deleteLater();
        }
    columns_ = kept;
    while (row_->count() > 0) delete row_->takeAt(0);
    for (Column* c : columns_) row_->addWidget(c, 1);
    const QString before = compare_->currentText();
    compare_->clear();
    compare_->addItem(tr("nothing"));
    for (const Column* c : columns_) compare_->addItem(c->name);
    compare_->setCurrentIndex(std::max(compare_->findText(before), before.isEmpty() ? 1 : 0));
    updateControls();
}

void PlaygroundView::rebuildColumns() {
    std::vector<int> keys;
    for (const Column* c : columns_)
        if (c->key >= 0) keys.push_back(c->key);
    const bool by_hand = chosen_by_hand_;
    // The base column names the model: made anew when that changes.
    for (Column* c : columns_)
        if (c->key < 0)
            c->geometry = session_.model() ? toQ(session_.model()->info.name) : tr("no base loaded"), c->update();
    setColumns(keys);
    chosen_by_hand_ = by_hand;
}

bool PlaygroundView::generating() const {
    return waiting_for_engine_ ||
           std::any_of(columns_.begin(), columns_.end(), [](const Column* c) { return c->running(); });
}

QString PlaygroundView::answer(int column) const { return columns_[size_t(column)]->text->toPlainText(); }

void PlaygroundView::updateControls() {
    bool seed_ok = false;
    seed_->text().toULongLong(&seed_ok);
    seed_->setProperty("invalid", !seed_ok);
    QString why;
    if (!session_.model())
        why = tr("Load a base model first");
    else if (generating())
        why = tr("Answers are still being written: Stop ends them");
    else if (!seed_ok)
        why = tr("seed: expected a whole number");
    send_->setEnabled(why.isEmpty());
    send_->setToolTip(plainTooltip(why.isEmpty() ? tr("Send to every column (Ctrl+Enter)") : why));
    stop_->setEnabled(generating());
    add_->setEnabled(int(columns_.size()) <= kMaxAdapters);
    add_->setToolTip(plainTooltip(int(columns_.size()) <= kMaxAdapters ? tr("One more adapter beside the others")
                                                                       : tr("Six adapters and the base at most")));
    QString facts = counted(int64_t(columns_.size()), tr("column"), tr("columns"));
    if (most_in_one_step_ > 1) facts += tr(" · %1 answered in one batch").arg(most_in_one_step_);
    facts += temperature_->value() == 0 ? tr(" · greedy") : tr(" · seed %1").arg(seed_->text());
    setFacts(facts);
}

Result<std::vector<Token>> PlaygroundView::encodePrompt(const Model& model, const std::string& system,
                                                        const std::string& prompt) {
    if (!model.info.tokenizer) return std::vector<Token>();
    std::vector<ChatMessage> messages;
    if (!system.empty()) messages.push_back({"system", system});
    messages.push_back({"user", prompt});
    return model.info.chat_template->encode(*model.info.tokenizer, messages);
}

void PlaygroundView::countPrompt() {
    const auto model = session_.model();
    if (!model) {
        facts_->setText(tr("no base loaded"));
        return updateControls();
    }
    if (!model->info.tokenizer) {
        facts_->setText(tr("this model has no tokenizer: text cannot be sent to it"));
        return;
    }
    const uint64_t request = ++count_request_;
    const std::string system = toStd(system_->toPlainText()), prompt = toStd(prompt_->toPlainText());
    runInWorker(
        pool_, this, [model, system, prompt] { return encodePrompt(*model, system, prompt); },
        [this, request, model, system](const Result<std::vector<Token>>& ids) {
            if (request != count_request_) return;
            if (!ids) return facts_->setText(oneLine(ids.error().message(), 200));
            const ChatTemplate& chat = *model->info.chat_template;
            QString words = tr("chat template: %1").arg(toQ(chat.name()));
            if (!chat.note().empty()) words += QStringLiteral(" (%1)").arg(oneLine(chat.note(), 120));
            words += tr(" · system prompt: %1")
                         .arg(!system.empty()                        ? tr("own")
                              : chat.default_system_prompt().empty() ? tr("none")
                                                                     : tr("default"));
            facts_->setText(words + tr(" · %1 tokens").arg(count(int64_t(ids->size()))));
        });
    updateControls();
}

void PlaygroundView::send() {
    if (!session_.model() || generating() || !send_->isEnabled()) return;
    if (prompt_->toPlainText().isEmpty()) return emit message(tr("The prompt is empty."), true);
    for (Column* c : columns_) {
        c->clear();
        c->update();
    }
    most_in_one_step_ = 0;
    waiting_for_engine_ = true;
    updateControls();
    session_.ensureEngine([this](const QString& error) {
        waiting_for_engine_ = false;
        if (!error.isEmpty()) {
            for (Column* c : columns_) c->note = error, c->update();
            emit message(error, true);
        } else {
            submitAll();
        }
        updateControls();
    });
}

void PlaygroundView::submitAll() {
    Engine* engine = session_.engine();
    if (!engine) return;
    const Model& model = engine->model();
    Request request;
    auto ids = encodePrompt(model, toStd(system_->toPlainText()), toStd(prompt_->toPlainText()));
    if (!ids) {
        for (Column* c : columns_) {
            c->note = oneLine(ids.error().message(), 200);
            c->update();
        }
        return;
    }
    request.prompt = std::move(*ids);
    request.sampling.temperature = float(temperature_->value());
    request.sampling.top_p = float(top_p_->value());
    request.sampling.top_k = top_k_->value();
    request.sampling.seed = seed_->text().toULongLong();
    request.sampling.max_tokens = max_tokens_->value();
    for (const QString& s : stop_strings_->text().split(QLatin1Char('|'), Qt::SkipEmptyParts))
        request.sampling.stop.push_back(toStd(s));
    // An idle engine would start on the first column alone: all of them go into one batch.
    const bool alone = session_.runState() == Session::RunState::idle;
    if (alone) engine->hold();
    for (Column* c : columns_) {
        Request mine = request;
        if (c->key >= 0) {
            const auto id = session_.liveId(c->key);
            if (!id) {
                c->note = tr("this adapter is not in the engine");
                continue;
            }
            mine.adapter = *id;
        }
        auto submitted = engine->submit(std::move(mine));
        if (submitted) {
            c->request = *submitted;
            c->arrival_us = engine->now_us();
            if (model.info.tokenizer) c->decoder = std::make_unique<StreamingDecoder>(model.info.tokenizer);
        } else {
            c->note = oneLine(submitted.error().message());
        }
        c->update();
    }
    if (alone) engine->release();
    emit session_.activity();
}

void PlaygroundView::stop() {
    if (Engine* engine = session_.engine())
        for (Column* c : columns_)
            if (c->running()) engine->cancel(*c->request);
}

void PlaygroundView::takeRecords(const std::vector<StepRecordPtr>& records) {
    if (std::none_of(columns_.begin(), columns_.end(), [](const Column* c) { return c->running(); })) return;
    bool ended = false;
    for (const StepRecordPtr& r : records) {
        int mine = 0;
        const auto columnOf = [&](RequestId id) -> Column* {
            for (Column* c : columns_)
                if (c->request == id && c->finish == FinishReason::none) return c;
            return nullptr;
        };
        for (const Arrival& a : r->arrivals)
            if (Column* c = columnOf(a.request)) c->arrival_us = a.arrival_us;
        for (const StepRow& row : r->rows) {
            Column* c = columnOf(row.request);
            if (!c) continue;
            ++mine;
            if (row.token < 0) continue;
            ++c->tokens;
            if (c->first_us < 0) c->first_us = r->end_us;
            c->last_us = r->end_us;
            if (c->decoder) c->append(toQ(c->decoder->push(row.token)));
        }
        most_in_one_step_ = std::max(most_in_one_step_, mine);
        for (const RequestRecord& f : r->finished) {
            Column* c = columnOf(f.id);
            if (!c) continue;
            ended = true;
            if (c->decoder) c->append(toQ(c->decoder->finish()));
            c->finish = f.finish;
            if (f.finish == FinishReason::error) c->note = oneLine(f.error);
            const auto model = session_.model();
            if (f.visible_bytes >= 0 && model && model->info.tokenizer) {  // the stop string is not part of the answer
                const std::string text = model->info.tokenizer->decode(f.output, true);
                c->replace(toQ(text.substr(0, size_t(f.visible_bytes))));
            }
        }
    }
    for (Column* c : columns_) c->update();
    if (!diff_timer_->isActive()) diff_timer_->start();
    updateControls();
    if (ended && !generating()) emit finished();
}

void PlaygroundView::updateDiff() {
    const int index = compare_->currentIndex() - 1;
    const Column* reference = index >= 0 && index < int(columns_.size()) ? columns_[size_t(index)] : nullptr;
    const QString against = reference ? reference->text->toPlainText() : QString();
    for (Column* c : columns_) {
        QList<QTextEdit::ExtraSelection> marks;
        if (reference && c != reference && !against.isEmpty()) {
            for (const auto& [start, length] : changedWords(c->text->toPlainText(), against)) {
                QTextEdit::ExtraSelection mark;
                mark.cursor = QTextCursor(c->text->document());
                mark.cursor.setPosition(start);
                mark.cursor.setPosition(start + length, QTextCursor::KeepAnchor);
                mark.format.setBackground(colorsOf(this).selection);
                marks.push_back(mark);
            }
        }
        c->text->setExtraSelections(marks);
    }
}

void PlaygroundView::refresh(const RunModel&, const TimeController&) {}

void PlaygroundView::styleChanged() {
    const Colors& c = colorsOf(this);
    auto* box = prompt_->parentWidget()->layout();
    box->setContentsMargins(px(12), px(10), px(12), px(12));
    box->setSpacing(px(8));
    prompt_->setFont(uiFont(15, 500));
    prompt_->setFixedHeight(px(52));
    system_->setFixedHeight(px(30));
    QPalette p = facts_->palette();
    p.setColor(QPalette::WindowText, c.muted);
    facts_->setPalette(p);
    facts_->setFont(uiFont(11.5));
    for (QLabel* label : settings_->findChildren<QLabel*>()) {
        label->setMinimumWidth(1);
        QPalette q = label->palette();
        q.setColor(QPalette::WindowText, c.muted);
        label->setPalette(q);
        label->setFont(uiFont(11));
    }
    for (QWidget* w : {static_cast<QWidget*>(temperature_), static_cast<QWidget*>(top_p_),
                       static_cast<QWidget*>(top_k_), static_cast<QWidget*>(seed_), static_cast<QWidget*>(max_tokens_)})
        w->setFixedWidth(px(78));
    compare_->setFixedWidth(px(136));
    for (QPushButton* b : {send_, stop_}) b->setMinimumSize(px(88), px(36));
    row_->setSpacing(px(8));
    for (Column* column : columns_) column->restyle();
    updateDiff();
    updateControls();
}

}  // namespace spartan

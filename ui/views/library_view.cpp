#include "ui/views/library_view.h"

#include "ui/text.h"
#include "ui/views/adapter_details.h"

#include <QApplication>
#include <QClipboard>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QLabel>
#include <QLineEdit>
#include <QMenu>
#include <QPainter>
#include <QPushButton>
#include <QShortcut>
#include <QStyledItemDelegate>
#include <QTableView>
#include <QVBoxLayout>

#include <algorithm>

namespace spartan {

namespace {

QColor colorOf(LibraryEntry::Where where, const Colors& c) {
    switch (where) {
        case LibraryEntry::Where::batch:
            return c.decode;
        case LibraryEntry::Where::pool:
            return c.prefill;
        case LibraryEntry::Where::moving:
            return c.transfer;
        case LibraryEntry::Where::failed:
            return c.error;
        default:
            return c.muted;
    }
}

// Names in full strength, facts quiet, figures of equal width, residency as icon and word.
class RowDelegate : public QStyledItemDelegate {
public:
    using QStyledItemDelegate::QStyledItemDelegate;
    void setWords(bool words) { words_ = words; }

    void paint(QPainter* p, const QStyleOptionViewItem& option, const QModelIndex& index) const override {
        const Colors& c = colorsFor(option.palette);
        const auto column = LibraryModel::Column(index.column());
        const auto state = LibraryEntry::State(index.data(LibraryModel::kStateRole).toInt());
        const auto where = LibraryEntry::Where(index.data(LibraryModel::kWhereRole).toInt());
        const bool base = index.data(LibraryModel::kEntryKindRole).toInt() == int(LibraryEntry::Kind::model);
        const bool failed = state == LibraryEntry::State::failed;
        p->save();
        if (option.state & QStyle::State_Selected) p->fillRect(option.rect, c.selection);
        const QRectF r = QRectF(option.rect).adjusted(px(6), 0, -px(6), 0);
        QString text = index.data(Qt::DisplayRole).toString();
        const auto alignment = Qt::Alignment(index.data(Qt::TextAlignmentRole).toInt());
        if (column == LibraryModel::kName) {
            p->setFont(uiFont(12.5, base ? 600 : 400));
            p->setPen(failed ? c.muted : c.text);
        } else if (column == LibraryModel::kP99 || column == LibraryModel::kRequests) {
            p->setFont(uiFont(12));
            p->setPen(c.text);
        } else if (column == LibraryModel::kWhere) {
            p->setFont(uiFont(12));
            p->setPen(failed ? c.error : state == LibraryEntry::State::ready ? colorOf(where, c) : c.muted);
            drawFigures(*p, QRectF(r.left(), r.top(), px(14), r.height()), Qt::AlignHCenter | Qt::AlignVCenter,
                        text.left(1));
            if (words_) {
                p->setPen(failed ? c.error : c.muted);
                p->setFont(uiFont(11.5));
                const QRectF rest = r.adjusted(px(19), 0, px(4), 0);
                drawFigures(*p, rest, Qt::AlignLeft | Qt::AlignVCenter,
                            QFontMetricsF(p->font()).elidedText(text.mid(2), Qt::ElideRight, rest.width()));
            }
            p->restore();
            return;
        } else {
            p->setFont(uiFont(11.5));
            p->setPen(failed && column == LibraryModel::kKind ? c.error : c.muted);
        }
        const QFontMetricsF m(p->font());
        if (figuresWidth(m, text) > r.width()) text = m.elidedText(text, Qt::ElideRight, r.width());
        drawFigures(*p, r, (alignment & Qt::AlignHorizontal_Mask) | Qt::AlignVCenter, text);
        p->restore();
    }

private:
    bool words_ = true;
};

}  // namespace

// The dashed place at the foot: files may be dropped anywhere, this only says so.
class LibraryView::DropZone : public QWidget {
public:
    DropZone() : text_(new QLabel(tr("Drop adapters or a model anywhere"))), links_(new QHBoxLayout) {
        auto* box = new QVBoxLayout(this);
        box->setSpacing(0);
        text_->setAlignment(Qt::AlignCenter);
        box->addWidget(text_);
        links_->addStretch();
        links_->addStretch();
        box->addLayout(links_);
    }
    QPushButton* addLink(const QString& text) {
        auto* b = new QPushButton(text);
        b->setProperty("link", true);
        links_->insertWidget(links_->count() - 1, b);
        return b;
    }
    void restyle(const Colors& colors) {
        layout()->setContentsMargins(px(8), px(10), px(8), px(8));
        text_->setFont(uiFont(12, 500));
        text_->setStyleSheet(QStringLiteral("color: %1").arg(colors.muted.name()));
    }

protected:
    void paintEvent(QPaintEvent*) override {
        QPainter p(this);
        p.setRenderHint(QPainter::Antialiasing);
        QPen pen(colorsOf(this).border, 1, Qt::DashLine);
        pen.setDashPattern({4, 3});
        p.setPen(pen);
        p.drawRoundedRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5), px(5), px(5));
    }

private:
    QLabel* text_;
    QHBoxLayout* links_;
};

// Why the selected row was refused, in full, with a button to copy it.
class LibraryView::Reason : public QWidget {
public:
    Reason() : text_(new QLabel), copy_(new QPushButton(tr("Copy details"))) {
        auto* box = new QVBoxLayout(this);
        text_->setTextFormat(Qt::PlainText);
        text_->setWordWrap(true);
        text_->setTextInteractionFlags(Qt::TextSelectableByMouse);
        copy_->setProperty("link", true);
        box->addWidget(text_);
        box->addWidget(copy_, 0, Qt::AlignLeft);
        connect(copy_, &QPushButton::clicked, this, [this] { QApplication::clipboard()->setText(details_); });
        hide();
    }
    void set(const QString& words, const QString& details) {
        text_->setText(words);
        details_ = details;
        setVisible(!words.isEmpty());
    }
    void restyle(const Colors& colors) {
        layout()->setContentsMargins(px(8), px(6), px(8), px(4));
        layout()->setSpacing(px(2));
        text_->setStyleSheet(QStringLiteral("color: %1").arg(colors.error.name()));
        text_->setFont(uiFont(11.5));
    }

private:
    QLabel* text_;
    QPushButton* copy_;
    QString details_;
};

LibraryView::LibraryView(Session& session, Selection& selection, QWidget* parent)
    : Panel(QStringLiteral("library"), tr("Library"), parent),
      session_(session),
      selection_(selection),
      filter_(new LibraryFilter(this)),
      filter_box_(new QLineEdit),
      table_(new QTableView),
      zone_(new DropZone),
      reason_(new Reason),
      details_(new AdapterDetails) {
    filter_->setSourceModel(&session.library());
    filter_box_->setPlaceholderText(tr("filter: name, kind, pool, p99>200 …"));
    filter_box_->setClearButtonEnabled(true);
    filter_box_->setAccessibleName(tr("Filter the library"));
    table_->setModel(filter_);
    table_->setAccessibleName(tr("Models and adapters"));
    table_->setItemDelegate(new RowDelegate(table_));
    table_->setSelectionBehavior(QAbstractItemView::SelectRows);
    table_->setSelectionMode(QAbstractItemView::ExtendedSelection);
    table_->setShowGrid(false);
    table_->setTabKeyNavigation(false);  // Tab leaves it: the arrows move inside
    table_->setWordWrap(false);
    table_->setSortingEnabled(true);
    table_->horizontalHeader()->setSortIndicator(-1, Qt::AscendingOrder);
    table_->horizontalHeader()->setSortIndicatorClearable(true);
    table_->horizontalHeader()->setHighlightSections(false);
    table_->horizontalHeader()->setSectionResizeMode(QHeaderView::Fixed);
    table_->verticalHeader()->hide();
    table_->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    table_->setContextMenuPolicy(Qt::CustomContextMenu);
    table_->setFrameShape(QFrame::NoFrame);

    auto* body = new QWidget;
    auto* box = new QVBoxLayout(body);
    box->addWidget(filter_box_);
    box->addWidget(table_, 1);
    box->addWidget(details_);
    box->addWidget(reason_);
    box->addWidget(zone_);
    setBody(body);

    connect(zone_->addLink(tr("Browse…")), &QPushButton::clicked, this, &LibraryView::browseRequested);
    connect(zone_->addLink(tr("Generate synthetic…")), &QPushButton::clicked, this, &LibraryView::generateRequested);
    connect(filter_box_, &QLineEdit::textChanged, filter_, &LibraryFilter::setText);
    connect(table_, &QTableView::customContextMenuRequested, this, &LibraryView::showRowMenu);
    connect(table_->selectionModel(), &QItemSelectionModel::selectionChanged, this, [this] {
        const std::vector<int> keys = selectedKeys();
        selection_.setAdapter(keys.size() == 1 ? session_.liveId(keys[0]) : std::nullopt);
        updateReason();
    });
    connect(table_, &QTableView::activated, this,
            [this](const QModelIndex& index) { openDetails(index.data(LibraryModel::kKeyRole).toInt()); });
    auto* shut = new QShortcut(QKeySequence(Qt::Key_Escape), this, nullptr, nullptr, Qt::WidgetWithChildrenShortcut);
    connect(shut, &QShortcut::activated, details_, &AdapterDetails::close);
    auto* remove = new QShortcut(QKeySequence::Delete, table_, nullptr, nullptr, Qt::WidgetShortcut);
    connect(remove, &QShortcut::activated, this, &LibraryView::removeSelected);
    const auto changed = [this] {
        updateFacts();
        updateReason();
        updateDetails();
    };
    for (const auto signal : {&QAbstractItemModel::rowsInserted, &QAbstractItemModel::rowsRemoved})
        connect(&session.library(), signal, this, changed);
    connect(&session.library(), &QAbstractItemModel::dataChanged, this, changed);

    EmptyState* empty = emptyState();
    empty->set(tr("Drop a base model and adapters anywhere"),
               tr("A base model is a Hugging Face folder or a .gguf file; an adapter is a PEFT folder."));
    empty->addAction(tr("Open the demo"), [this] { emit demoRequested(); });
    empty->addAction(tr("Browse…"), [this] { emit browseModelRequested(); });
    empty->addAction(tr("synthetic:tiny"), [this] { session_.openModel(QStringLiteral("synthetic:tiny")); });
    updateFacts();
}

std::vector<int> LibraryView::selectedKeys() const {
    std::vector<int> keys;
    for (const QModelIndex& i : table_->selectionModel()->selectedRows())
        keys.push_back(i.data(LibraryModel::kKeyRole).toInt());
    return keys;
}

void LibraryView::refresh(const RunModel&, const TimeController&) {}

void LibraryView::updateFacts() {
    const LibraryModel& library = session_.library();
    int64_t adapters = 0, failed = 0, waiting = 0;
    for (const LibraryEntry& e : library.entries()) {
        if (e.kind != LibraryEntry::Kind::adapter) continue;
        ++(e.state == LibraryEntry::State::failed ? failed : adapters);
        waiting += e.state == LibraryEntry::State::waiting;
    }
    QString facts = counted(adapters, tr("adapter"), tr("adapters"));
    if (library.adapterBytes() > 0) facts += QStringLiteral(" · ") + bytesText(library.adapterBytes());
    if (waiting > 0) facts += tr(" · %1 waiting").arg(waiting);
    if (failed > 0) facts += tr(" · %1 refused").arg(failed);
    setFacts(facts);
    showEmpty(library.entries().empty());
}

void LibraryView::updateReason() {
    const std::vector<int> keys = selectedKeys();
    const LibraryEntry* shown = keys.size() == 1 ? session_.library().find(keys[0]) : nullptr;
    // Without a selection the newest refusal speaks, so that a drop that failed does not stay silent.
    if (keys.empty())
        for (const LibraryEntry& e : session_.library().entries())
            if (e.state == LibraryEntry::State::failed) shown = &e;
    if (!shown || shown->error.empty()) return reason_->set({}, {});
    reason_->set(oneLine(shown->name, 80) + QStringLiteral(": ") + oneLine(shown->error, 600),
                 toQ(shown->name) + QLatin1Char('\n') + toQ(shown->source) + QLatin1Char('\n') + toQ(shown->error));
}

void LibraryView::openDetails(int key) {
    const LibraryEntry* e = session_.library().find(key);
    if (e && e->kind == LibraryEntry::Kind::adapter && e->state == LibraryEntry::State::ready) details_->open(*e);
}

// The row may be gone, or hold the adapter as it was read again for another base.
void LibraryView::updateDetails() {
    if (!details_->key()) return;
    const LibraryEntry* e = session_.library().find(*details_->key());
    if (e && e->state == LibraryEntry::State::ready)
        details_->open(*e);
    else if (!e || e->state == LibraryEntry::State::failed)
        details_->close();
}

void LibraryView::removeSelected() {
    const std::vector<int> keys = selectedKeys();
    if (!keys.empty()) session_.removeAdapters(keys);
}

void LibraryView::showRowMenu(const QPoint& at) {
    const std::vector<int> keys = selectedKeys();
    QMenu menu(this);
    if (!keys.empty()) {
        bool ready = true;
        QStringList details;
        for (const int key : keys) {
            const LibraryEntry* e = session_.library().find(key);
            ready = ready && e->kind == LibraryEntry::Kind::adapter && e->state == LibraryEntry::State::ready;
            details += toQ(e->name) + QLatin1Char('\n') + toQ(e->source) +
                       (e->error.empty() ? QString() : QLatin1Char('\n') + toQ(e->error));
        }
        QAction* open = menu.addAction(tr("Details"), QKeySequence(Qt::Key_Return), this,
                                       [this, key = keys.front()] { openDetails(key); });
        QAction* ask =
            menu.addAction(tr("Ask in the playground"), this, [this, keys] { emit playgroundRequested(keys); });
        ask->setEnabled(ready);
        open->setEnabled(ready && keys.size() == 1);
        menu.addAction(tr("Copy details"), this,
                       [details] { QApplication::clipboard()->setText(details.join(QStringLiteral("\n\n"))); });
        menu.addSeparator();
        menu.addAction(tr("Remove"), QKeySequence::Delete, this, &LibraryView::removeSelected);
        menu.addSeparator();
    }
    menu.addAction(tr("Add adapters…"), this, &LibraryView::browseRequested);
    menu.addAction(tr("Generate synthetic adapters…"), this, &LibraryView::generateRequested);
    menu.addSeparator();
    QAction* undo = session_.undoStack().createUndoAction(&menu);
    undo->setShortcut(QKeySequence::Undo);
    menu.addAction(undo);
    menu.exec(table_->viewport()->mapToGlobal(at));
}

void LibraryView::fitColumns() {
    // The narrow library of Explore shows name, kind, p99 and the residency icon; a wide one shows everything, and the
    // last column, which says why a file was refused, has what is left.
    const int width = table_->viewport()->width();
    const bool wide = width >= px(640), words = wide || width >= px(400);
    static_cast<RowDelegate*>(table_->itemDelegate())->setWords(words);
    for (const int column : {LibraryModel::kTargets, LibraryModel::kSize, LibraryModel::kRequests})
        table_->setColumnHidden(column, !wide);
    table_->setColumnHidden(LibraryModel::kP99, width < px(270));
    int left = width;
    const auto fix = [&](int column, int w) {
        table_->setColumnWidth(column, w);
        left -= w;
    };
    if (wide) {
        const int spare = width - px(640);
        fix(LibraryModel::kName, px(150) + spare / 4);
        fix(LibraryModel::kKind, px(110) + spare / 10);
        fix(LibraryModel::kTargets, px(90) + spare / 10);
        fix(LibraryModel::kSize, px(76));
        fix(LibraryModel::kRequests, px(70));
        fix(LibraryModel::kP99, px(76));
        table_->setColumnWidth(LibraryModel::kWhere, left);
        return;
    }
    if (!table_->isColumnHidden(LibraryModel::kP99)) fix(LibraryModel::kP99, px(66));
    fix(LibraryModel::kWhere, px(words ? 96 : 46));
    fix(LibraryModel::kKind, std::min(px(96), int(left * 0.57)));
    table_->setColumnWidth(LibraryModel::kName, left);
}

void LibraryView::styleChanged() {
    auto* box = static_cast<QVBoxLayout*>(filter_box_->parentWidget()->layout());
    box->setContentsMargins(px(10), px(10), px(10), px(12));
    box->setSpacing(px(8));
    const Colors& colors = colorsOf(this);
    zone_->restyle(colors);
    reason_->restyle(colors);
    details_->restyle(colors);
    table_->verticalHeader()->setDefaultSectionSize(px(24));
    table_->verticalHeader()->setMinimumSectionSize(px(16));
    table_->horizontalHeader()->setFont(uiFont(11.5));
    fitColumns();
}

void LibraryView::resizeEvent(QResizeEvent* event) {
    Panel::resizeEvent(event);
    QMetaObject::invokeMethod(this, &LibraryView::fitColumns, Qt::QueuedConnection);
    fitColumns();
}

}  // namespace spartan

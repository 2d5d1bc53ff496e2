#include "ui/dialogs.h"

#include "core/base/file.h"
#include "core/run/run_dir.h"
#include "ui/text.h"
#include "ui/theme.h"
#include "ui/worker.h"

#include <QCheckBox>
#include <QComboBox>
#include <QDialogButtonBox>
#include <QDir>
#include <QDirIterator>
#include <QFileInfo>
#include <QFormLayout>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QInputDialog>
#include <QLabel>
#include <QLineEdit>
#include <QMessageBox>
#include <QPushButton>
#include <QRegularExpression>
#include <QSpinBox>
#include <QTableView>
#include <QVBoxLayout>

#include <algorithm>

namespace spartan {

std::vector<ShortcutLine> shortcutLines() {
    const auto t = [](const char* s) { return QObject::tr(s); };
    return {{t("Ctrl+1 … 4"), t("Explore, Inspect layout, Playground, Workload")},
            {t("Ctrl+R"), t("Run the workload")},
            {t("Ctrl+P"), t("Hold the run: arrivals, steps and its clock stand still; again: go on")},
            {t("Ctrl+."), t("Stop the run; what is recorded stays")},
            {t("Space"), t("Pause the view; recording goes on")},
            {t("Home"), t("Live: follow the newest step")},
            {t(".  and  ,"), t("Next and previous engine step")},
            {t("F"), t("Fit the whole run into view")},
            {t("Wheel, drag, Shift+drag"), t("Zoom at the pointer, select a range, pan")},
            {t("Ctrl+O"), t("Open a base model")},
            {t("Ctrl+Shift+O"), t("Add adapters")},
            {t("Ctrl+Shift+R"), t("Recordings")},
            {t("Ctrl+F"), t("Filter the library")},
            {t("Del"), t("Remove the selected adapters; Ctrl+Z brings them back")},
            {t("Ctrl+Z, Ctrl+Shift+Z"), t("Undo, redo")},
            {t("Ctrl+Enter, Esc"), t("Playground: send, stop")},
            {t("Ctrl++, Ctrl+-, Ctrl+0"), t("Interface scale")},
            {t("Ctrl+T"), t("Theme: system, light, dark")},
            {t("F11"), t("Full screen")},
            {t("?"), t("This sheet")}};
}

QDialog* makeShortcutSheet(QWidget* parent) {
    auto* d = new QDialog(parent);
    d->setAttribute(Qt::WA_DeleteOnClose);
    d->setWindowTitle(QObject::tr("Shortcuts"));
    auto* grid = new QGridLayout(d);
    grid->setContentsMargins(px(20), px(16), px(20), px(16));
    grid->setHorizontalSpacing(px(24));
    grid->setVerticalSpacing(px(6));
    int row = 0;
    for (const ShortcutLine& line : shortcutLines()) {
        auto* keys = new QLabel(line.keys);
        keys->setFont(uiFont(12.5, 600));
        grid->addWidget(keys, row, 0);
        grid->addWidget(new QLabel(line.words), row++, 1);
    }
    return d;
}

QDialog* makeAboutBox(QWidget* parent, const ProgramInfo& program, const QString& device) {
    auto* d = new QDialog(parent);
    d->setAttribute(Qt::WA_DeleteOnClose);
    d->setWindowTitle(QObject::tr("About"));
    auto* box = new QVBoxLayout(d);
    box->setContentsMargins(px(24), px(20), px(24), px(16));
    box->setSpacing(px(8));
    const auto add = [&](const QString& text, const QFont& font) {
        auto* label = new QLabel(text);
        label->setTextFormat(Qt::PlainText);
        label->setTextInteractionFlags(Qt::TextSelectableByMouse);
        label->setWordWrap(true);
        label->setFont(font);
        box->addWidget(label);
    };
    add(QObject::tr("SpartanServe Workbench"), uiFont(18, 600));
    add(QObject::tr("Version %1, commit %2").arg(toQ(program.version), toQ(program.commit)), uiFont(13));
    add(QObject::tr("Device: %1").arg(device), uiFont(13));
    add(QObject::tr("One base model with many adapters at once: butterfly-orthogonal (BOFT, OFT) and low-rank (LoRA), "
                    "mixed in one batch."),
        uiFont(13));
    add(QObject::tr("Licence: GNU General Public License, version 3 or later."), uiFont(13, 500));
    add(QObject::tr(
            "Built with: Qt %1 (LGPL-3.0), QCustomPlot (GPL-3.0 or later), nlohmann/json (MIT), CLI11 (BSD-3-Clause), "
            "PCRE2 (BSD-3-Clause), utf8proc (MIT), OpenSSL libcrypto (Apache-2.0). Font: Inter (OFL-1.1), where "
            "installed.")
            .arg(QString::fromLatin1(qVersion())),
        uiFont(12));
    add(QObject::tr(
            "NOTICE. The eight demo adapters were trained from SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), "
            "whose weights are "
            "fetched as the demo model and are not part of this program. The adapters are under Apache-2.0 too."),
        uiFont(12));
    auto* buttons = new QDialogButtonBox(QDialogButtonBox::Close);
    QObject::connect(buttons, &QDialogButtonBox::rejected, d, &QDialog::reject);
    box->addWidget(buttons);
    d->setMinimumWidth(px(460));
    return d;
}

QString askSyntheticSpec(QWidget* parent) {
    QDialog d(parent);
    d.setWindowTitle(QObject::tr("Generate synthetic adapters"));
    auto* form = new QFormLayout(&d);
    form->setContentsMargins(px(20), px(16), px(20), px(16));
    auto* kind = new QComboBox;
    kind->addItem(QStringLiteral("BOFT"), QStringLiteral("boft"));
    kind->addItem(QStringLiteral("OFT"), QStringLiteral("oft"));
    kind->addItem(QStringLiteral("LoRA"), QStringLiteral("lora"));
    auto* number = new QSpinBox;
    number->setRange(1, 10'000);
    number->setValue(8);
    auto* sizes = new QLineEdit;
    auto* hint = new QLabel;
    hint->setWordWrap(true);
    hint->setTextFormat(Qt::PlainText);
    const auto suggest = [=] {
        const QString k = kind->currentData().toString();
        sizes->setText(k == QLatin1String("boft")  ? QStringLiteral("b=16,m=2,b=32,m=1,b=64,m=1")
                       : k == QLatin1String("oft") ? QStringLiteral("b=32")
                                                   : QStringLiteral("r=8,r=16"));
    };
    QObject::connect(kind, &QComboBox::currentIndexChanged, &d, suggest);
    suggest();
    form->addRow(QObject::tr("kind"), kind);
    form->addRow(QObject::tr("how many"), number);
    form->addRow(QObject::tr("sizes, dealt out in turn"), sizes);
    form->addRow(hint);
    auto* buttons = new QDialogButtonBox(QDialogButtonBox::Ok | QDialogButtonBox::Cancel);
    buttons->button(QDialogButtonBox::Ok)->setText(QObject::tr("Generate"));
    form->addRow(buttons);
    const auto spec = [=] {
        return QStringLiteral("synthetic:%1:%2:%3")
            .arg(kind->currentData().toString())
            .arg(number->value())
            .arg(sizes->text().trimmed());
    };
    const auto check = [=] {
        const auto parsed = parse_synthetic_spec(toStd(spec()));
        buttons->button(QDialogButtonBox::Ok)->setEnabled(bool(parsed));
        hint->setText(parsed ? QObject::tr("Random weights on q, k, v and o. They show cost and layout, not behaviour.")
                             : oneLine(parsed.error().message()));
    };
    QObject::connect(sizes, &QLineEdit::textChanged, &d, check);
    QObject::connect(kind, &QComboBox::currentIndexChanged, &d, check);
    check();
    QObject::connect(buttons, &QDialogButtonBox::accepted, &d, &QDialog::accept);
    QObject::connect(buttons, &QDialogButtonBox::rejected, &d, &QDialog::reject);
    return d.exec() == QDialog::Accepted ? spec() : QString();
}

// --- Recordings

std::vector<RecordingRow> listRecordings() {
    std::vector<RecordingRow> rows;
    const QDir runs(toQ(runs_dir()));
    for (const QFileInfo& info : runs.entryInfoList(QDir::Dirs | QDir::NoDotAndDotDot, QDir::Time)) {
        RecordingRow row;
        row.dir = info.absoluteFilePath();
        row.name = info.completeBaseName();
        for (QDirIterator it(row.dir, QDir::Files); it.hasNext();) {
            it.next();
            row.bytes += it.fileInfo().size();
        }
        auto opened = open_run(toStd(row.dir));
        if (opened) {
            const auto text = [&](const Json& j, const char* key) {
                return j.is_object() && j.contains(key) && j[key].is_string() ? oneLine(j[key].get<std::string>(), 120)
                                                                              : QString();
            };
            row.complete = opened->complete;
            row.ended = opened->json.contains("totals");
            row.started = text(opened->json, "started");
            if (opened->json.contains("workload")) row.workload = text(opened->json["workload"], "name");
            if (opened->json.contains("model")) row.model = text(opened->json["model"], "name");
        } else {
            row.problem = oneLine(opened.error().message());
        }
        rows.push_back(row);
    }
    return rows;
}

void RecordingsModel::set(std::vector<RecordingRow> rows) {
    beginResetModel();
    rows_ = std::move(rows);
    endResetModel();
}

QVariant RecordingsModel::data(const QModelIndex& index, int role) const {
    const RecordingRow* r = row(index.row());
    if (!r || !index.isValid()) return {};
    if (role == Qt::ToolTipRole)
        return plainTooltip(r->dir + (r->problem.isEmpty() ? QString() : QLatin1Char('\n') + r->problem));
    if (role == Qt::TextAlignmentRole && index.column() == kSize) return int(Qt::AlignRight | Qt::AlignVCenter);
    if (role != Qt::DisplayRole) return {};
    switch (index.column()) {
        case kName:
            return r->name;
        case kStarted:
            return QString(r->started).replace(QLatin1Char('T'), QLatin1Char(' ')).remove(QLatin1Char('Z'));
        case kWorkload:
            return r->workload.isEmpty() ? tr("playground") : r->workload;
        case kModelName:
            return r->model;
        case kSize:
            return bytesText(r->bytes);
        case kState:
            return !r->problem.isEmpty() ? tr("✗ unreadable")
                   : r->complete         ? tr("complete")
                   : r->ended            ? tr("◐ stopped")
                                         : tr("◐ broke off");
        default:
            return {};
    }
}

QVariant RecordingsModel::headerData(int section, Qt::Orientation orientation, int role) const {
    if (orientation != Qt::Horizontal || role != Qt::DisplayRole || section >= kColumns) return {};
    const QString names[] = {tr("name"), tr("started, UTC"), tr("workload"), tr("base"), tr("size"), tr("state")};
    return names[section];
}

RecordingsDialog::RecordingsDialog(const QString& inUse, QWidget* parent)
    : QDialog(parent),
      in_use_(inUse),
      model_(new RecordingsModel(this)),
      table_(new QTableView),
      open_(new QPushButton(tr("Open"))),
      rename_(new QPushButton(tr("Rename…"))),
      delete_(new QPushButton(tr("Delete…"))),
      note_(new QLabel) {
    setWindowTitle(tr("Recordings"));
    resize(px(860), px(460));
    auto* box = new QVBoxLayout(this);
    table_->setModel(model_);
    table_->setAccessibleName(tr("Recordings"));
    table_->setSelectionBehavior(QAbstractItemView::SelectRows);
    table_->setSelectionMode(QAbstractItemView::SingleSelection);
    table_->setShowGrid(false);
    table_->setTabKeyNavigation(false);  // Tab leaves it: the arrows move inside
    table_->verticalHeader()->hide();
    table_->verticalHeader()->setDefaultSectionSize(px(24));
    table_->horizontalHeader()->setStretchLastSection(true);
    const int widths[] = {170, 160, 150, 170, 80};
    for (int i = 0; i < 5; ++i) table_->setColumnWidth(i, px(widths[i]));
    box->addWidget(table_, 1);
    note_->setTextFormat(Qt::PlainText);
    note_->setText(tr("Reading…"));
    box->addWidget(note_);
    auto* line = new QHBoxLayout;
    line->addWidget(rename_);
    line->addWidget(delete_);
    line->addStretch();
    line->addWidget(open_);
    auto* close = new QPushButton(tr("Close"));
    line->addWidget(close);
    box->addLayout(line);
    open_->setDefault(true);
    connect(close, &QPushButton::clicked, this, &QDialog::reject);
    const auto open = [this] {
        if (const RecordingRow* r = current(); r && r->problem.isEmpty()) {
            emit openRequested(r->dir);
            accept();
        }
    };
    connect(open_, &QPushButton::clicked, this, open);
    connect(table_, &QTableView::doubleClicked, this, open);
    connect(table_->selectionModel(), &QItemSelectionModel::selectionChanged, this, &RecordingsDialog::update);
    connect(rename_, &QPushButton::clicked, this, [this] {
        const RecordingRow* r = current();
        if (!r) return;
        bool ok = false;
        const QString name = QInputDialog::getText(this, tr("Rename"), tr("New name"), QLineEdit::Normal, r->name, &ok);
        if (!ok || name == r->name) return;
        if (const QString problem = renameRecording(r->dir, name); !problem.isEmpty()) note_->setText(problem);
        reload();
    });
    connect(delete_, &QPushButton::clicked, this, [this] {
        const RecordingRow* r = current();
        if (!r) return;
        QMessageBox ask(QMessageBox::Question, tr("Delete"), {}, QMessageBox::Cancel, this);
        ask.setTextFormat(Qt::PlainText);
        ask.setText(tr("Delete the recording %1 (%2)? This cannot be undone.").arg(r->name, bytesText(r->bytes)));
        QPushButton* yes = ask.addButton(tr("Delete"), QMessageBox::DestructiveRole);
        ask.exec();
        if (ask.clickedButton() != yes) return;
        if (const QString problem = deleteRecording(r->dir); !problem.isEmpty()) note_->setText(problem);
        reload();
    });
    reload();
}

const RecordingRow* RecordingsDialog::current() const {
    const QModelIndexList rows = table_->selectionModel()->selectedRows();
    return rows.isEmpty() ? nullptr : model_->row(rows.first().row());
}

void RecordingsDialog::update() {
    const RecordingRow* r = current();
    const bool used = r && r->dir == in_use_;
    open_->setEnabled(r && r->problem.isEmpty());
    rename_->setEnabled(r && !used);
    delete_->setEnabled(r && !used);
    for (QPushButton* b : {rename_, delete_}) b->setToolTip(used ? tr("This recording is being written") : QString());
    if (r && !r->problem.isEmpty()) note_->setText(r->problem);
}

void RecordingsDialog::reload() {
    update();
    runInWorker(
        pool_, this, [] { return listRecordings(); },
        [this](std::vector<RecordingRow> rows) {
            qint64 bytes = 0;
            for (const RecordingRow& r : rows) bytes += r.bytes;
            note_->setText(tr("%1 recordings, %2, in %3").arg(rows.size()).arg(bytesText(bytes), toQ(runs_dir())));
            model_->set(std::move(rows));
            update();
            emit loaded();
        });
}

QString RecordingsDialog::renameRecording(const QString& dir, const QString& name, QString* newDir) {
    static const QRegularExpression plain(QStringLiteral("^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$"));
    if (!plain.match(name).hasMatch())
        return tr("name: found “%1”, expected 1 to 64 letters, digits, spaces, dots, dashes or underscores")
            .arg(name.left(80));
    const QFileInfo from(dir);
    const QString to = from.absolutePath() + QLatin1Char('/') + name + QStringLiteral(".wbrun");
    if (QFileInfo::exists(to)) return tr("There is a recording of the name %1 already").arg(name);
    if (!QDir().rename(from.absoluteFilePath(), to)) return tr("%1 could not be renamed").arg(dir);
    if (newDir) *newDir = to;
    return {};
}

QString RecordingsDialog::deleteRecording(const QString& dir) {
    // Only what a recording consists of is deleted: a folder with anything else in it stays.
    QDir folder(dir);
    if (!folder.exists()) return tr("%1 is not there").arg(dir);
    static const QStringList ours{QStringLiteral("run.json"), QStringLiteral("steps.jsonl"),
                                  QStringLiteral("requests.jsonl"), QStringLiteral("tokens.jsonl")};
    for (const QString& name : folder.entryList(QDir::AllEntries | QDir::Hidden | QDir::NoDotAndDotDot))
        if (!ours.contains(name)) return tr("%1 holds %2, which is no part of a recording: not deleted").arg(dir, name);
    for (const QString& name : ours)
        if (folder.exists(name) && !folder.remove(name)) return tr("%1/%2 could not be deleted").arg(dir, name);
    const QString name = folder.dirName();
    folder.cdUp();
    return folder.rmdir(name) ? QString() : tr("%1 could not be deleted").arg(dir);
}

}  // namespace spartan

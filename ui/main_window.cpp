#include "ui/main_window.h"

#include "core/base/file.h"
#include "core/model/demo_model.h"
#include "core/run/device_info.h"
#include "ui/chrome.h"
#include "ui/dialogs.h"
#include "ui/restart.h"
#include "ui/settings.h"
#include "ui/text.h"
#include "ui/views/library_view.h"
#include "ui/views/playground_view.h"
#include "ui/views/time_bar.h"
#include "ui/views/views.h"
#include "ui/views/workload_view.h"
#include "ui/worker.h"

#include <QAbstractButton>
#include <QAction>
#include <QApplication>
#include <QCloseEvent>
#include <QComboBox>
#include <QDateTime>
#include <QDragEnterEvent>
#include <QEventLoop>
#include <QFileDialog>
#include <QHBoxLayout>
#include <QLineEdit>
#include <QMenu>
#include <QMessageBox>
#include <QMimeData>
#include <QPainter>
#include <QPlainTextEdit>
#include <QProgressBar>
#include <QPushButton>
#include <QShortcut>
#include <QSplitter>
#include <QStackedWidget>
#include <QTableView>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>

namespace spartan {

namespace {

constexpr int kTickMs = 33;
const QString kKeepQuantised = QStringLiteral("keepQuantised");
const QString kDevice = QStringLiteral("device");

QStringList localPaths(const QMimeData* mime) {
    QStringList paths;
    for (const QUrl& url : mime->urls())
        if (url.isLocalFile()) paths << url.toLocalFile();
    return paths;
}

// "CPU, 2 threads"; a GPU by its name alone.
QString deviceText(const DeviceInfo& device, const QString& cpu) {
    if (device.id != "cpu") return oneLine(device.name, 60);
    return QStringLiteral("%1, %2").arg(cpu,
                                        counted(device.threads, MainWindow::tr("thread"), MainWindow::tr("threads")));
}

// Bars paint their own ground, so that a theme change needs no style sheet per widget.
class Bar : public QWidget {
public:
    Bar(bool atTop, QWidget* parent) : QWidget(parent), at_top_(atTop) {}

protected:
    void paintEvent(QPaintEvent*) override {
        const Colors& c = colorsOf(this);
        QPainter p(this);
        p.fillRect(rect(), c.bar);
        p.fillRect(QRect(0, at_top_ ? height() - 1 : 0, width(), 1), c.border);
    }

private:
    bool at_top_;
};

}  // namespace

MainWindow::MainWindow(Theme& theme, Session& session, QWidget* parent)
    : QMainWindow(parent),
      theme_(theme),
      session_(session),
      context_{session.runModel(),
               session.time(),
               selection_,
               [this] { runDemo(); },
               [this](bool on) { session_.setPhaseTimes(on); },
               [this] { return session_.phaseTimes(); }},
      restarter_(startProgramAgain) {
    setWindowTitle(tr("SpartanServe Workbench"));
    setAcceptDrops(true);
    auto* root = new QWidget;
    auto* box = new QVBoxLayout(root);
    box->setContentsMargins(0, 0, 0, 0);
    box->setSpacing(0);
    setCentralWidget(root);
    buildTopBar();
    banner_ = new Banner;
    pages_ = new QStackedWidget;
    buildPages();
    buildStatusBar();
    box->addWidget(top_);
    box->addWidget(banner_);
    time_bar_ = new TimeBar(context_);
    box->addWidget(pages_, 1);
    box->addWidget(time_bar_);
    box->addWidget(status_);
    overlay_ = new DropOverlay(root);
    buildShortcuts();
    // Files may be dropped on any part of the window: no child takes them for itself.
    for (QWidget* child : findChildren<QWidget*>()) child->setAcceptDrops(false);

    timer_.setInterval(kTickMs);
    timer_.setTimerType(Qt::PreciseTimer);
    connect(&timer_, &QTimer::timeout, this, &MainWindow::tick);
    connect(&session_, &Session::activity, this, &MainWindow::wake);
    connect(&session_, &Session::modelChanged, this, &MainWindow::updateTopBar);
    connect(&session_, &Session::runStateChanged, this, &MainWindow::updateTopBar);
    connect(&session_, &Session::message, this, &MainWindow::showMessage);
    connect(&session_, &Session::engineFailed, this, &MainWindow::offerStartAgain);
    connect(&session_, &Session::restartNeeded, this, &MainWindow::restartProgram);
    connect(&session_, &Session::silenceChanged, this, &MainWindow::tellSilence);
    connect(&session_, &Session::fitQuestion, this, &MainWindow::askBecauseItWontFit);
    connect(&session_, &Session::workloadDropped, workload_, &WorkloadView::open);
    connect(&session_, &Session::runShown, this, [this] {
        for (Panel* v : views_) v->markDirty();
        wake();
    });
    connect(&session_, &Session::runFinished, this, [this](const QString& dir, bool complete) {
        remember(QStringLiteral("recentRuns"), dir);
        if (complete)
            showMessage(tr("Finished: %1 is in the recordings.").arg(QFileInfo(dir).completeBaseName()), false);
        updateTopBar();
    });
    for (const auto signal : {&QAbstractItemModel::rowsInserted, &QAbstractItemModel::rowsRemoved})
        connect(&session_.library(), signal, this, &MainWindow::updateTopBar);
    connect(&session_.time(), &TimeController::changed, this, &MainWindow::wake);
    connect(&selection_, &Selection::changed, this, [this] {
        for (Panel* v : views_) v->markDirty();
        wake();
    });
    connect(&theme_, &Theme::changed, this, &MainWindow::restyle);
    connect(workload_, &WorkloadView::edited, this, &MainWindow::updateTopBar);
    connect(workload_, &WorkloadView::message, this, &MainWindow::showMessage);
    connect(workload_, &WorkloadView::opened, this, [this](const QString& path, bool ok) {
        if (!ok) return;
        remember(QStringLiteral("recentWorkloads"), path);
        setPerspective(Perspective::workload);
    });
    connect(playground_, &PlaygroundView::message, this, &MainWindow::showMessage);
    connect(library_, &LibraryView::browseRequested, this, &MainWindow::browseAdapters);
    connect(library_, &LibraryView::browseModelRequested, this, &MainWindow::browseModel);
    connect(library_, &LibraryView::demoRequested, this, [this] { openDemo(true); });
    connect(library_, &LibraryView::generateRequested, this, &MainWindow::generateAdapters);
    connect(library_, &LibraryView::playgroundRequested, this, [this](const std::vector<int>& keys) {
        playground_->setColumns(keys);
        setPerspective(Perspective::playground);
    });
    restyle();
    setFocusPolicy(Qt::ClickFocus);  // nothing has the focus at first: Space pauses the view
    setFocus();
    setPerspective(Perspective::explore);
    updateTopBar();
    wake();
}

MainWindow::~MainWindow() {
    // The session may outlive the window: what it tells while both go down must not reach half of one.
    disconnect(&session_, nullptr, this, nullptr);
    disconnect(&session_.library(), nullptr, this, nullptr);
    disconnect(&session_.time(), nullptr, this, nullptr);
}

// --- Building

void MainWindow::buildTopBar() {
    top_ = new Bar(true, this);
    auto* line = new QHBoxLayout(top_);
    chip_ = new ModelChip;
    auto* menu = new QMenu(chip_);
    connect(menu, &QMenu::aboutToShow, this, [this, menu] {
        menu->clear();
        fillModelMenu(*menu);
    });
    chip_->setMenu(menu);
    line->addWidget(chip_);

    run_ = new QPushButton(tr("▶  Run"));
    run_->setProperty("primary", true);
    pause_ = new QPushButton(tr("Pause"));
    stop_ = new QPushButton(tr("Stop"));
    connect(run_, &QPushButton::clicked, this, &MainWindow::startRun);
    connect(pause_, &QPushButton::clicked, this,
            [this] { session_.runState() == Session::RunState::held ? session_.release() : session_.hold(); });
    connect(stop_, &QPushButton::clicked, &session_, &Session::stop);
    for (QPushButton* b : {run_, pause_, stop_}) line->addWidget(b);

    progress_ = new QWidget;
    auto* grid = new QGridLayout(progress_);
    grid->setContentsMargins(0, 0, 0, 0);
    grid->setVerticalSpacing(0);
    progress_title_ = new FigureLabel;
    progress_title_->setSize(11.5);
    progress_text_ = new FigureLabel;
    progress_text_->setSize(11.5);
    progress_text_->setMuted(false);
    progress_bar_ = new QProgressBar;
    progress_bar_->setTextVisible(false);
    progress_bar_->setRange(0, 1000);
    progress_bar_->setAccessibleName(tr("Progress"));
    cancel_ = new QToolButton;
    cancel_->setText(QStringLiteral("×"));
    cancel_->setToolTip(tr("Cancel"));
    cancel_->setAccessibleName(tr("Cancel"));
    connect(cancel_, &QToolButton::clicked, this, [this] {
        session_.cancelModelLoad();
        session_.cancelOpening();
    });
    grid->addWidget(progress_title_, 0, 0);
    grid->addWidget(progress_bar_, 1, 0);
    grid->addWidget(progress_text_, 0, 1, 2, 1);
    grid->addWidget(cancel_, 0, 2, 2, 1);
    grid->setColumnStretch(0, 1);
    line->addWidget(progress_, 1);

    const std::pair<Perspective, QString> names[] = {{Perspective::explore, tr("Explore")},
                                                     {Perspective::inspect, tr("Inspect layout")},
                                                     {Perspective::playground, tr("Playground")},
                                                     {Perspective::workload, tr("Workload")}};
    for (const auto& [p, name] : names) {
        auto* b = new QPushButton(name);
        b->setCheckable(true);
        connect(b, &QPushButton::clicked, this, [this, p = p] { setPerspective(p); });
        perspective_buttons_[p] = b;
        line->addWidget(b);
    }
    menu_button_ = new QToolButton;
    menu_button_->setText(QStringLiteral("☰"));
    menu_button_->setAccessibleName(tr("Menu"));
    menu_button_->setToolTip(tr("Menu: files, view, help"));
    menu_button_->setPopupMode(QToolButton::InstantPopup);
    auto* all = new QMenu(menu_button_);
    connect(all, &QMenu::aboutToShow, this, [this, all] {
        all->clear();
        fillMainMenu(*all);
    });
    menu_button_->setMenu(all);
    line->addWidget(menu_button_);
}

Panel* MainWindow::addRunView(const QString& id) {
    Panel* view = makeRunView(id, context_);
    if (view) views_.push_back(view);
    return view;
}

QSplitter* MainWindow::splitter(Qt::Orientation orientation, const QString& name) {
    auto* s = new QSplitter(orientation);
    s->setObjectName(name);
    s->setChildrenCollapsible(false);
    splitters_.push_back(s);
    return s;
}

QWidget* MainWindow::explorePage() {
    auto* columns = splitter(Qt::Horizontal, QStringLiteral("explore"));
    auto* middle = splitter(Qt::Vertical, QStringLiteral("exploreMiddle"));
    auto* below = splitter(Qt::Horizontal, QStringLiteral("exploreBelow"));
    columns->addWidget(library_);
    if (Panel* latency = addRunView(QStringLiteral("latency"))) middle->addWidget(latency);
    for (const char* id : {"layout", "steps"})
        if (Panel* view = addRunView(QLatin1String(id))) below->addWidget(view);
    middle->addWidget(below);
    columns->addWidget(middle);
    if (Panel* memory = addRunView(QStringLiteral("memory"))) columns->addWidget(memory);
    middle->setSizes({540, 380});
    below->setSizes({470, 400});
    columns->setSizes({340, 860, 400});
    return columns;
}

QWidget* MainWindow::inspectPage() {
    auto* columns = splitter(Qt::Horizontal, QStringLiteral("inspect"));
    auto* right = splitter(Qt::Vertical, QStringLiteral("inspectRight"));
    if (Panel* layout = addRunView(QStringLiteral("layout"))) columns->addWidget(layout);
    for (const char* id : {"steps", "step-detail"})
        if (Panel* view = addRunView(QLatin1String(id))) right->addWidget(view);
    columns->addWidget(right);
    columns->setSizes({900, 680});
    right->setSizes({300, 560});
    return columns;
}

void MainWindow::buildPages() {
    library_ = new LibraryView(session_, selection_);
    workload_ = new WorkloadView(session_);
    playground_ = new PlaygroundView(session_);
    views_ = {library_, workload_, playground_};
    const auto page = [&](Perspective p, QWidget* content) {
        auto* frame = new QWidget;
        auto* box = new QVBoxLayout(frame);
        box->addWidget(content);
        pages_->addWidget(frame);
        page_of_[p] = frame;
    };
    page(Perspective::explore, explorePage());
    page(Perspective::inspect, inspectPage());
    page(Perspective::playground, playground_);
    page(Perspective::workload, workload_);
}

void MainWindow::buildStatusBar() {
    status_ = new Bar(false, this);
    auto* line = new QHBoxLayout(status_);
    status_left_ = new FigureLabel;
    status_right_ = new FigureLabel;
    status_right_->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
    for (FigureLabel* l : {status_left_, status_right_}) l->setSize(11.5);
    line->addWidget(status_left_, 1);
    line->addWidget(status_right_, 1);
}

void MainWindow::buildShortcuts() {
    const auto bind = [this](const QKeySequence& keys, auto action) {
        auto* s = new QShortcut(keys, this);
        connect(s, &QShortcut::activated, this, action);
    };
    const Perspective order[] = {Perspective::explore, Perspective::inspect, Perspective::playground,
                                 Perspective::workload};
    for (int i = 0; i < 4; ++i)
        bind(QKeySequence(Qt::CTRL | Qt::Key(Qt::Key_1 + i)), [this, p = order[i]] { setPerspective(p); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_R), [this] { startRun(); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_P),
         [this] { session_.runState() == Session::RunState::held ? session_.release() : session_.hold(); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_Period), [this] { session_.stop(); });
    bind(QKeySequence(Qt::Key_Space), [this] {
        // Space still presses what has the focus.
        if (auto* button = qobject_cast<QAbstractButton*>(focusWidget()); button && button->isEnabled())
            button->click();
        else if (auto* box = qobject_cast<QComboBox*>(focusWidget()))
            box->showPopup();
        else
            session_.time().togglePause();
    });
    bind(QKeySequence(Qt::Key_Home), [this] { session_.time().goLive(); });
    bind(QKeySequence(Qt::Key_Period), [this] { session_.time().stepBy(1, session_.runModel()); });
    bind(QKeySequence(Qt::Key_Comma), [this] { session_.time().stepBy(-1, session_.runModel()); });
    bind(QKeySequence(Qt::Key_F), [this] { session_.time().fit(session_.runModel()); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_O), [this] { browseModel(); });
    bind(QKeySequence(Qt::CTRL | Qt::SHIFT | Qt::Key_O), [this] { browseAdapters(); });
    bind(QKeySequence(Qt::CTRL | Qt::SHIFT | Qt::Key_R), [this] { showRecordings(); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_F), [this] {
        setPerspective(Perspective::explore);
        library_->filterBox().setFocus();
        library_->filterBox().selectAll();
    });
    bind(QKeySequence(QKeySequence::Undo), [this] { session_.undoStack().undo(); });
    bind(QKeySequence(Qt::CTRL | Qt::SHIFT | Qt::Key_Z), [this] { session_.undoStack().redo(); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_S), [this] { workload_->save(); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_Plus), [this] { setScale(theme_.scalePercent() + 10); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_Equal), [this] { setScale(theme_.scalePercent() + 10); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_Minus), [this] { setScale(theme_.scalePercent() - 10); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_0), [this] { setScale(100); });
    bind(QKeySequence(Qt::CTRL | Qt::Key_T), [this] { stepTheme(); });
    bind(QKeySequence(Qt::Key_F11), [this] { setWindowState(windowState() ^ Qt::WindowFullScreen); });
    bind(QKeySequence(Qt::Key_Question), [this] { makeShortcutSheet(this)->open(); });
}

void MainWindow::restyle() {
    top_->setFixedHeight(px(45));
    auto* line = static_cast<QHBoxLayout*>(top_->layout());
    line->setContentsMargins(px(12), px(7), px(12), px(8));
    line->setSpacing(px(5));
    chip_->setMinimumWidth(px(150));
    chip_->setMaximumWidth(px(372));
    chip_->setFixedHeight(px(30));
    for (QPushButton* b : {run_, pause_, stop_}) b->setFixedSize(px(b == run_ ? 80 : 64), px(30));
    for (const auto& [p, b] : perspective_buttons_)
        b->setFixedSize(int(QFontMetricsF(uiFont(13, 600)).horizontalAdvance(b->text())) + px(22), px(30));
    progress_->layout()->setContentsMargins(px(10), px(0), px(10), px(2));
    static_cast<QGridLayout*>(progress_->layout())->setHorizontalSpacing(px(10));
    progress_text_->setFixedWidth(px(116));
    progress_bar_->setMinimumWidth(px(40));
    progress_->setMaximumWidth(px(480));
    menu_button_->setFixedSize(px(32), px(30));
    status_->setFixedHeight(px(26));
    status_->layout()->setContentsMargins(px(12), 0, px(12), 0);
    for (const auto& [p, page] : page_of_) page->layout()->setContentsMargins(px(8), px(6), px(8), px(8));
    for (QSplitter* s : splitters_) s->setHandleWidth(px(7));
    banner_->restyle();
    time_bar_->restyle();
    wake();
}

void MainWindow::changeEvent(QEvent* event) {
    if (event->type() == QEvent::PaletteChange && banner_) banner_->restyle();
    QMainWindow::changeEvent(event);
}

void MainWindow::resizeEvent(QResizeEvent* event) {
    QMainWindow::resizeEvent(event);
    if (overlay_->isVisible()) overlay_->setGeometry(centralWidget()->rect());
}

void MainWindow::setPerspective(Perspective perspective) {
    perspective_ = perspective;
    pages_->setCurrentWidget(page_of_[perspective]);
    for (const auto& [p, b] : perspective_buttons_) b->setChecked(p == perspective);
    wake();
}

// --- Menus

void MainWindow::fillModelMenu(QMenu& menu) {
    menu.setToolTipsVisible(true);
    if (const auto& model = session_.model()) {
        QAction* what =
            menu.addAction(menuText(tr("%1 · %2 · %3 parameters")
                                        .arg(oneLine(model->info.name, 60), QString::fromLatin1(name_of(model->dtype)),
                                             count(model->info.parameters))));
        what->setEnabled(false);
        if (session_.fit()) menu.addAction(session_.fit()->words())->setEnabled(false);
        menu.addSeparator();
    }
    menu.addAction(tr("Open a model file…"), this, &MainWindow::browseModel)->setShortcut(Qt::CTRL | Qt::Key_O);
    menu.addAction(tr("Open a model folder…"), this, &MainWindow::browseModelFolder);
    QMenu* recent = menu.addMenu(tr("Recent"));
    for (const QString& path : openSettings().value(QStringLiteral("recentModels")).toStringList())
        recent->addAction(menuText(path), this, [this, path] { openModelAsking(path); });
    recent->setEnabled(!recent->isEmpty());
    const QString demo = toQ(demo_model_path());
    QAction* demo_action =
        menu.addAction(tr("Demo: SmolLM2-135M-Instruct with its adapters"), this, [this] { openDemo(true); });
    if (!QFileInfo::exists(demo)) {
        demo_action->setEnabled(false);
        demo_action->setText(tr("Demo model: not in the cache (app/run.sh fetches it)"));
    }
    QMenu* synthetic = menu.addMenu(tr("Synthetic"));
    for (const std::string& shape : synthetic_shapes())
        synthetic->addAction(toQ("synthetic:" + shape), this,
                             [this, shape] { openModelAsking(toQ("synthetic:" + shape)); });
    menu.addSeparator();
    QAction* keep = menu.addAction(tr("Keep quantised weights as stored"), this, [this](bool on) {
        session_.setKeepQuantised(on);
        openSettings().setValue(kKeepQuantised, on);
        const bool other = session_.model() && (session_.model()->kept_bytes > 0) != on;
        if (other)
            showMessage(tr("This holds for models opened from now on; open this one again to change it."), false);
    });
    keep->setCheckable(true);
    keep->setChecked(session_.keepsQuantised());
    keep->setToolTip(tr(
        "GGUF files of Q4_0, Q4_1, Q8_0, Q4_K or Q6_K: the same answers in less memory, and faster for one sequence"));
    fillDeviceMenu(*menu.addMenu(tr("Compute on")));
    QAction* unload = menu.addAction(tr("Unload"), this, &MainWindow::unloadAsking);
    unload->setEnabled(session_.model() != nullptr);
}

void MainWindow::fillMainMenu(QMenu& menu) {
    menu.addAction(tr("Add adapters…"), QKeySequence(Qt::CTRL | Qt::SHIFT | Qt::Key_O), this,
                   &MainWindow::browseAdapters);
    menu.addAction(tr("Generate synthetic adapters…"), this, &MainWindow::generateAdapters);
    menu.addSeparator();
    menu.addAction(tr("Open a workload…"), workload_, &WorkloadView::openFile);
    QMenu* recent = menu.addMenu(tr("Recent workloads"));
    for (const QString& path : openSettings().value(QStringLiteral("recentWorkloads")).toStringList())
        recent->addAction(menuText(path), this, [this, path] { workload_->open(path); });
    recent->setEnabled(!recent->isEmpty());
    menu.addAction(tr("Save the workload"), QKeySequence(Qt::CTRL | Qt::Key_S), workload_, &WorkloadView::save);
    menu.addAction(tr("Save the workload as…"), workload_, &WorkloadView::saveAs);
    menu.addSeparator();
    menu.addAction(tr("Recordings…"), QKeySequence(Qt::CTRL | Qt::SHIFT | Qt::Key_R), this,
                   &MainWindow::showRecordings);
    QMenu* runs = menu.addMenu(tr("Recent recordings"));
    for (const QString& path : openSettings().value(QStringLiteral("recentRuns")).toStringList())
        if (QFileInfo::exists(path))
            runs->addAction(menuText(QFileInfo(path).completeBaseName()), this,
                            [this, path] { session_.openRecording(path); });
    runs->setEnabled(!runs->isEmpty());
    menu.addSeparator();
    QAction* undo = session_.undoStack().createUndoAction(&menu);
    undo->setShortcut(QKeySequence::Undo);
    QAction* redo = session_.undoStack().createRedoAction(&menu);
    redo->setShortcut(Qt::CTRL | Qt::SHIFT | Qt::Key_Z);
    menu.addAction(undo);
    menu.addAction(redo);
    menu.addSeparator();
    QMenu* theme = menu.addMenu(tr("Theme"));
    const std::pair<ThemeMode, QString> modes[] = {
        {ThemeMode::system, tr("System")}, {ThemeMode::light, tr("Light")}, {ThemeMode::dark, tr("Dark")}};
    for (const auto& [mode, name] : modes) {
        QAction* a = theme->addAction(name, this, [this, mode = mode] {
            theme_.set(mode, theme_.scalePercent());
            theme_.save();
        });
        a->setCheckable(true);
        a->setChecked(theme_.mode() == mode);
    }
    QMenu* scale = menu.addMenu(tr("Interface scale"));
    for (const int percent : {80, 90, 100, 110, 125, 150, 175, 200}) {
        QAction* a = scale->addAction(tr("%1 %").arg(percent), this, [this, percent] { setScale(percent); });
        a->setCheckable(true);
        a->setChecked(theme_.scalePercent() == percent);
    }
    QMenu* log = menu.addMenu(tr("Messages"));
    for (const QString& m : messages_) log->addAction(menuText(m))->setEnabled(false);
    log->setEnabled(!messages_.isEmpty());
    menu.addSeparator();
    menu.addAction(tr("Shortcuts"), QKeySequence(Qt::Key_Question), this, [this] { makeShortcutSheet(this)->open(); });
    menu.addAction(tr("About"), this, [this] {
        const DeviceInfo device = session_.model() ? session_.modelDevice() : cpu_device_info();
        makeAboutBox(this, session_.program(), deviceText(device, oneLine(device.name, 120)))->open();
    });
    menu.addSeparator();
    menu.addAction(tr("Quit"), QKeySequence::Quit, this, &QWidget::close);
}

// --- Asking and telling

void MainWindow::showMessage(const QString& text, bool isError) {
    messages_.prepend(QTime::currentTime().toString(QStringLiteral("HH:mm:ss  ")) + text.left(200));
    while (messages_.size() > 30) messages_.removeLast();
    banner_->say(text, isError);
}

bool MainWindow::mayInterrupt(const QString& what) {
    if (!session_.recordingRun()) return true;
    if (asks_) {
        QMessageBox box(QMessageBox::Question, windowTitle(), {}, QMessageBox::NoButton, this);
        box.setTextFormat(Qt::PlainText);
        box.setText(tr("A run is in progress."));
        box.setInformativeText(what);
        QPushButton* yes = box.addButton(tr("Stop the run"), QMessageBox::AcceptRole);
        box.addButton(tr("Keep it running"), QMessageBox::RejectRole);
        box.exec();
        if (box.clickedButton() != yes) return false;
    }
    session_.stop();
    return true;
}

// A preset that was played with is let go; what differs from the person's own file is not, without asking.
bool MainWindow::mayForgetWorkload() {
    if (!asks_ || workload_->fileName().isEmpty() || !workload_->modified()) return true;
    QMessageBox box(QMessageBox::Question, windowTitle(), {}, QMessageBox::NoButton, this);
    box.setTextFormat(Qt::PlainText);
    box.setText(tr("The workload has changed since it was saved."));
    box.setInformativeText(workload_->fileName());
    QPushButton* save = box.addButton(tr("Save"), QMessageBox::AcceptRole);
    QPushButton* discard = box.addButton(tr("Discard"), QMessageBox::DestructiveRole);
    box.addButton(tr("Keep the window open"), QMessageBox::RejectRole);
    box.exec();
    if (box.clickedButton() == save) {
        bool ok = false;
        QEventLoop waiting;
        const auto connection = connect(workload_, &WorkloadView::saved, &waiting, [&](const QString&, bool written) {
            ok = written;
            waiting.quit();
        });
        workload_->saveTo(workload_->fileName());
        waiting.exec(QEventLoop::ExcludeUserInputEvents);
        disconnect(connection);
        return ok;
    }
    return box.clickedButton() == discard;
}

void MainWindow::fillDeviceMenu(QMenu& menu) {
    menu.setToolTipsVisible(true);
    const auto add = [&](const QString& id, const QString& words, const std::string& reason) {
        QAction* action = menu.addAction(menuText(words), this, [this, id] { computeOn(id); });
        action->setCheckable(true);
        action->setChecked(session_.device() == id);
        action->setEnabled(reason.empty());
        if (!reason.empty()) action->setToolTip(plainTooltip(tr("Cannot be used: %1").arg(toQ(reason))));
    };
    add(QStringLiteral("auto"), tr("Automatic: a GPU where there is one"), {});
    for (const DeviceInfo& d : session_.devices())
        add(toQ(d.id),
            d.reason.empty() ? deviceText(d, oneLine(d.name, 60))
                             : QStringLiteral("%1: %2").arg(oneLine(d.name, 60), oneLine(d.reason, 90)),
            d.reason);
}

// What is loaded is opened again, because weights and adapters are folded for a device's number type.
void MainWindow::computeOn(const QString& device) {
    if (device == session_.device()) return;
    if (session_.model() && !mayInterrupt(tr("Changing the device stops it. What is recorded so far is kept."))) return;
    session_.setDevice(device);
    openSettings().setValue(kDevice, device);
    if (session_.model()) session_.openModel(session_.modelPath());
}

void MainWindow::openModelAsking(const QString& path) {
    if (!mayInterrupt(tr("Replacing the base stops it. What is recorded so far is kept."))) return;
    remember(QStringLiteral("recentModels"), path);
    session_.openModel(path);
}

void MainWindow::unloadAsking() {
    if (mayInterrupt(tr("Unloading the base stops it. What is recorded so far is kept."))) session_.unloadModel();
}

void MainWindow::askBecauseItWontFit(const QString& path, const QString& dtype, const QString& words) {
    const QString present =
        session_.model()
            ? tr(" Unloading the present base first would free %1.").arg(bytesText(session_.model()->weight_bytes))
            : QString();
    banner_->ask(QFileInfo(path).fileName() + QLatin1Char(' ') + words + QLatin1Char('.') + present, tr("Load anyway"),
                 [this, path, dtype] { session_.openModel(path, dtype, true); });
}

void MainWindow::browseModel() {
    const QString path = QFileDialog::getOpenFileName(this, tr("Open a base model"), {},
                                                      tr("Models (*.gguf config.json *.safetensors);;All files (*)"));
    if (path.isEmpty()) return;
    const DropSummary what = judgeDrop({path});
    openModelAsking(what.models.isEmpty() ? path : what.models.first());
}

void MainWindow::browseModelFolder() {
    const QString path = QFileDialog::getExistingDirectory(this, tr("Open a folder with a base model"));
    if (!path.isEmpty()) openModelAsking(path);
}

void MainWindow::browseAdapters() {
    const QString path = QFileDialog::getExistingDirectory(this, tr("Add an adapter folder, or a folder of them"));
    if (!path.isEmpty()) session_.addPaths({path});
}

void MainWindow::generateAdapters() {
    const QString spec = askSyntheticSpec(this);
    if (!spec.isEmpty()) session_.addAdapterArguments({spec}, QStringLiteral("."));
}

void MainWindow::showRecordings() {
    auto* dialog = new RecordingsDialog(session_.writingDir(), this);
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    connect(dialog, &RecordingsDialog::openRequested, &session_, &Session::openRecording);
    dialog->open();
}

void MainWindow::stepTheme() {
    theme_.set(theme_.mode() == ThemeMode::system  ? ThemeMode::light
               : theme_.mode() == ThemeMode::light ? ThemeMode::dark
                                                   : ThemeMode::system,
               theme_.scalePercent());
    theme_.save();
}

void MainWindow::setScale(int percent) {
    theme_.set(theme_.mode(), percent);
    theme_.save();
}

void MainWindow::remember(const QString& list, const QString& item) {
    QSettings settings = openSettings();
    QStringList items = settings.value(list).toStringList();
    items.removeAll(item);
    items.prepend(item);
    while (items.size() > 10) items.removeLast();
    settings.setValue(list, items);
}

void MainWindow::openDemo(bool withModel) {
    const QString demo = toQ(demo_model_path());
    if (withModel) {
        if (!QFileInfo::exists(demo)) {
            banner_->ask(
                tr("The demo model is not in the cache and nothing was downloaded. “bash app/run.sh” fetches it when "
                   "there is a network."),
                tr("Use synthetic:tiny"), [this] { openModelAsking(QStringLiteral("synthetic:tiny")); }, tr("Browse…"),
                [this] { browseModel(); });
            return;
        }
        if (!mayInterrupt(tr("Replacing the base stops it. What is recorded so far is kept."))) return;
        session_.openModel(demo);
    }
    // Beside the program when installed, above the build folder when run from a checkout.
    for (QDir dir(QCoreApplication::applicationDirPath());;) {
        for (const char* place : {"resources/demo", "share/spartanserve/demo"})
            if (const QString path = dir.filePath(QLatin1String(place)); QFileInfo(path).isDir())
                return session_.addPaths({path});
        if (!dir.cdUp()) break;
    }
    showMessage(tr("The demo adapters are not beside the program."), true);
}

void MainWindow::runDemo() {
    workload_->setWorkload(demoWorkload(), tr("demo"));
    if (!session_.model()) {
        run_when_ready_ = QFileInfo::exists(toQ(demo_model_path()));
        run_with_adapters_ = 1;
        return openDemo(true);
    }
    startRun();
}

void MainWindow::offerRecovery() {
    runInWorker(
        *QThreadPool::globalInstance(), this,
        [] {
            std::vector<RecordingRow> broken;
            for (RecordingRow& r : listRecordings()) {
                const QFileInfo steps(r.dir + QStringLiteral("/steps.jsonl"));
                // A file that grew just now belongs to another window that is running.
                if (!r.complete && !r.ended && r.problem.isEmpty() && steps.size() > 0 &&
                    steps.lastModified().secsTo(QDateTime::currentDateTime()) > 10)
                    broken.push_back(r);
            }
            return broken;
        },
        [this](const std::vector<RecordingRow>& broken) {
            const QStringList offered = openSettings().value(QStringLiteral("recoveryOffered")).toStringList();
            for (const RecordingRow& r : broken) {
                if (offered.contains(r.dir)) continue;
                remember(QStringLiteral("recoveryOffered"), r.dir);
                banner_->ask(tr("A recording broke off: %1 (%2). Everything up to its last second is there.")
                                 .arg(r.name, bytesText(r.bytes)),
                             tr("Open it"), [this, dir = r.dir] { session_.openRecording(dir); });
                return;
            }
        });
}

// The engine is gone, nothing else is: one press goes on from there.
void MainWindow::offerStartAgain(const QString& why) {
    start_again_ = false;
    showMessage(tr("The engine has stopped: %1").arg(why), true);
    banner_->askAfterError(
        tr("The engine has stopped: %1. What was recorded is kept; base, adapters and workload are still there.")
            .arg(why),
        tr("Start again"), [this] {
            start_again_ = true;
            session_.startAgain();
        });
}

void MainWindow::tellSilence(bool silent) {
    if (!silent) return showMessage(tr("The device answers again; the run goes on."), false);
    banner_->askAfterError(
        tr("Not answering: %1. A kernel that hangs cannot be stopped from inside the program; should it end, the run "
           "goes on. What is recorded is kept on disk.")
            .arg(session_.silence()),
        tr("End the program"), [this] { endAtOnce(); });
}

// Without waiting for the engine's thread, which waits for the device.
void MainWindow::endAtOnce() {
    session_.flushRecording();
    keepLayout();
    quitter_();
}

// The device is lost to this process, as it can be after a fault of its own: another one goes on.
void MainWindow::restartProgram(const QString& why) {
    const auto restart = [this] {
        Json state = session_.restartState();
        state["workload"] = workload_to_json(workload_->resolved());
        const auto path = leaveForRestart(state);
        if (!path) return showMessage(oneLine(path.error().message()), true);
        if (!restarter_({QStringLiteral("--restore"), *path}))
            return showMessage(tr("The program could not be started anew."), true);
        asks_ = false;
        close();
    };
    if (std::exchange(start_again_, false)) return restart();
    banner_->askAfterError(tr("The device is lost to this process: %1.").arg(why), tr("Start again"), restart);
}

void MainWindow::restore(const QString& path) {
    const auto state = takeAfterRestart(path);
    if (!state) return showMessage(oneLine(state.error().message()), true);
    if (!state->is_object() || !state->contains("workload"))
        return showMessage(tr("%1 holds no session.").arg(path), true);
    const auto workload = parse_workload((*state)["workload"], toStd(path), {});
    if (!workload) return showMessage(oneLine(workload.error().message()), true);
    workload_->setWorkload(*workload, tr("the workload from before"));
    session_.restore(*state);
    const auto& entries = session_.library().entries();
    run_with_adapters_ = std::count_if(entries.begin(), entries.end(),
                                       [](const LibraryEntry& e) { return e.kind == LibraryEntry::Kind::adapter; });
    run_when_ready_ = state->value("run", false);
}

void MainWindow::restoreLayout() {
    const QSettings settings = openSettings();
    session_.setKeepQuantised(settings.value(kKeepQuantised, false).toBool());
    session_.setDevice(settings.value(kDevice, session_.device()).toString());
    restoreGeometry(settings.value(QStringLiteral("geometry")).toByteArray());
    for (QSplitter* s : splitters_)
        s->restoreState(settings.value(QStringLiteral("splitter/") + s->objectName()).toByteArray());
}

void MainWindow::closeEvent(QCloseEvent* event) {
    if (!mayInterrupt(tr("Closing stops it. What is recorded so far is kept."))) return event->ignore();
    if (!mayForgetWorkload()) return event->ignore();
    keepLayout();
    event->accept();
    if (!session_.silence().isEmpty()) endAtOnce();
}

void MainWindow::keepLayout() {
    QSettings settings = openSettings();
    settings.setValue(QStringLiteral("geometry"), saveGeometry());
    for (QSplitter* s : splitters_) settings.setValue(QStringLiteral("splitter/") + s->objectName(), s->saveState());
    settings.sync();
}

// --- Drops

void MainWindow::dragEnterEvent(QDragEnterEvent* event) {
    const QStringList paths = localPaths(event->mimeData());
    const DropSummary what = judgeDrop(paths);
    QString why = what.words();
    if (paths.isEmpty()) why = tr("only files and folders can be dropped here");
    overlay_->announce(why, what.any());
    if (what.any())
        event->acceptProposedAction();
    else
        QTimer::singleShot(2'500, overlay_, &QWidget::hide);  // no leave event follows a refusal
}

void MainWindow::dragLeaveEvent(QDragLeaveEvent*) { overlay_->hide(); }

void MainWindow::dropEvent(QDropEvent* event) {
    overlay_->hide();
    const QStringList paths = localPaths(event->mimeData());
    if (paths.isEmpty()) return;
    event->acceptProposedAction();
    const bool model = !judgeDrop(paths).models.isEmpty();
    // The question, if there is one, is asked after the drop has ended.
    QTimer::singleShot(0, this, [this, paths, model] {
        if (!model || mayInterrupt(tr("Replacing the base stops it. What is recorded so far is kept.")))
            session_.addPaths(paths);
    });
}

// --- Running

void MainWindow::startRun() {
    if (!run_->isEnabled()) return;
    session_.run(workload_->resolved());
}

void MainWindow::updateTopBar() {
    updateChip();
    const auto state = session_.runState();
    QStringList why = session_.whyNotRun(workload_->workload());
    if (!workload_->valid()) why << tr("Workload: %1").arg(workload_->error());
    run_->setEnabled(why.isEmpty());
    run_->setToolTip(plainTooltip(why.isEmpty()
                                      ? tr("Run the workload “%1” (Ctrl+R)").arg(toQ(workload_->workload().name))
                                      : why.join(QLatin1Char('\n'))));
    const bool running = state == Session::RunState::running, held = state == Session::RunState::held;
    pause_->setText(held ? tr("Resume") : tr("Pause"));
    pause_->setEnabled(running || held);
    pause_->setToolTip(plainTooltip(
        running || held ? tr("Holds arrivals, steps and the run's clock (Ctrl+P). Space pauses only the view.")
                        : tr("Nothing is running")));
    stop_->setEnabled(running || held);
    stop_->setToolTip(plainTooltip(running || held ? tr("Stops the run (Ctrl+.); what is recorded stays")
                                                   : tr("Nothing is running")));

    // Asked for before everything was there: it runs as soon as the base and the adapters are.
    if (run_when_ready_ && why.isEmpty() && session_.library().readyAdapters() >= run_with_adapters_) {
        run_when_ready_ = false;
        QTimer::singleShot(0, this, &MainWindow::startRun);
    }

    QString title, text;
    double share = -1;
    bool can_cancel = false;
    const RunHeader& h = session_.runModel().header();
    if (session_.modelState() == Session::ModelState::opening ||
        session_.modelState() == Session::ModelState::loading) {
        title = session_.modelState() == Session::ModelState::opening ? tr("opening the base model")
                                                                      : tr("loading the base model");
        share = session_.modelProgress();
        text = percentText(share);
        can_cancel = true;
    } else if (session_.openingProgress() >= 0) {
        title = tr("opening the recording");
        share = session_.openingProgress();
        text = percentText(share);
        can_cancel = true;
    } else if (state == Session::RunState::starting) {
        title = tr("starting %1").arg(toQ(workload_->workload().name));
        share = 0;
    } else if (state != Session::RunState::idle ||
               (!h.workload_name.empty() && session_.runModel().counts().arrived > 0)) {
        const int64_t planned = session_.plannedRequests();
        const int64_t done = session_.runModel().counts().finished();
        title = tr("%1 · %2 requests · %3")
                    .arg(oneLine(h.workload_name, 40), count(planned),
                         counted(int64_t(h.adapters.size()), tr("adapter"), tr("adapters")));
        share = state == Session::RunState::idle ? (planned > 0 ? double(done) / double(planned) : 1)
                                                 : session_.runProgress();
        text = tr("%1 / %2").arg(count(done), count(planned));
        if (!session_.silence().isEmpty())
            text += tr("  not answering");
        else if (state == Session::RunState::held)
            text += tr("  held");
        else if (state == Session::RunState::finishing)
            text += tr("  stopping");
        else if (const auto eta = session_.etaSeconds())
            text += tr("  ETA %1").arg(durationText(*eta));
    } else if (const int64_t ready = session_.library().readyAdapters(); session_.model()) {
        title = tr("%1 · ready · %2")
                    .arg(oneLine(workload_->workload().name, 40), counted(ready, tr("adapter"), tr("adapters")));
    }
    progress_title_->setText(title);
    progress_text_->setText(text);
    progress_text_->setToolTip(
        plainTooltip(tr("Finished of planned requests; the time left by the pace of the last "
                        "quarter of a minute")));
    progress_bar_->setValue(int(std::max(0.0, share) * 1000));
    progress_bar_->setVisible(share >= 0);
    cancel_->setVisible(can_cancel);
}

void MainWindow::updateChip() {
    const auto state = session_.modelState();
    if (state == Session::ModelState::opening || state == Session::ModelState::loading) {
        const QString fit = session_.fit() ? session_.fit()->words() : QString();
        return chip_->set(tr("Loading…"), fit, session_.modelProgress());
    }
    const auto& model = session_.model();
    if (!model) return chip_->set(tr("No base model"), tr("open or drop one"), -1);
    chip_->set(oneLine(model->info.name, 80),
               tr("%1 · %2 · %3")
                   .arg(QString::fromLatin1(name_of(model->dtype)), bytesText(model->weight_bytes),
                        deviceText(session_.modelDevice(), tr("CPU"))),
               -1);
}

void MainWindow::updateStatus() {
    const RunModel& model = session_.runModel();
    const TimeController& time = session_.time();
    QString left;
    if (model.empty()) {
        left = session_.model() ? tr("nothing has run yet") : tr("no base model loaded");
    } else {
        const double at = double(time.cursorUs()) / 1e6;
        const StepSummary* step = model.summary(time.cursorStep());
        if (!time.live())
            left = tr("paused at %1 · %2 · +%3 steps · Home goes live")
                       .arg(secondsText(at),
                            session_.runState() == Session::RunState::idle ? tr("the run has ended")
                                                                           : tr("recording continues"),
                            count(time.stepsSincePause(model)));
        else
            left = secondsText(at);
        left += tr(" · step %1").arg(count(time.cursorStep()));
        if (step)
            left += QStringLiteral(" · ") + counted(step->rows, tr("row"), tr("rows")) + QStringLiteral(", ") +
                    counted(step->adapters, tr("adapter"), tr("adapters"));
        if (time.live())
            left += session_.runState() == Session::RunState::held
                        ? tr(" · held: arrivals, steps and clock stand still")
                    : session_.showingLive() ? tr(" · live (Space pauses the view, recording goes on)")
                                             : tr(" · end of the run");
        if (const auto selected = time.selection())
            left += tr(" · Δ %1").arg(secondsText(double(selected->second - selected->first) / 1e6));
    }
    if (!session_.silence().isEmpty()) left += tr(" · ✗ %1").arg(session_.silence());
    if (!model.failure().empty()) left += tr(" · ✗ %1").arg(oneLine(model.failure(), 120));
    QStringList right;
    if (const int64_t bytes = session_.recordedBytes(); bytes >= 0) {
        const QString error = session_.recordingError();
        right << (error.isEmpty()
                      ? tr("recording %1 · %2").arg(QFileInfo(session_.writingDir()).fileName(), bytesText(bytes))
                      : tr("✗ recording stopped: %1").arg(error));
        // The ring makes the engine wait when it is full: nothing is ever dropped.
        right << tr("0 dropped");
    } else if (!session_.recordingDir().isEmpty()) {
        right << QFileInfo(session_.recordingDir()).fileName();
        // What was measured, not what is loaded now.
        if (!model.header().model_name.empty())
            right << tr("%1 %2").arg(oneLine(model.header().model_name, 40), oneLine(model.header().dtype, 8));
    }
    if (ticks_ > 0) right << tr("UI tick %1 ms").arg(QString::number(tick_average_ms_, 'f', 1));
    status_left_->setText(left);
    status_right_->setText(right.join(QStringLiteral(" · ")));
    status_right_->setToolTip(
        plainTooltip(right.join(QLatin1Char('\n')) + tr("\nUI tick: mean time that the window took for one refresh")));
}

void MainWindow::wake() {
    if (!timer_.isActive()) timer_.start();
}

double MainWindow::tick() {
    tick_clock_.start();
    session_.pump();
    const RunModel& model = session_.runModel();
    TimeController& time = session_.time();
    time.follow(model);
    const bool new_data = model.version() != seen_model_ && time.live();
    const bool new_time = time.version() != seen_time_;
    seen_model_ = model.version();
    seen_time_ = time.version();
    for (Panel* view : views_)
        if (view->isVisible() && (view->takeDirty() || new_data || new_time)) view->refresh(model, time);
    const bool shows_run = perspective_ == Perspective::explore || perspective_ == Perspective::inspect;
    const bool running = session_.showingLive() && session_.recordingRun();
    if (!shows_run)
        time_bar_->hide();
    else if (new_data || new_time || running != ran_ || time_bar_->isHidden() != model.empty())
        time_bar_->refresh(running);
    ran_ = running;
    updateTopBar();
    updateStatus();
    const double ms = double(tick_clock_.nsecsElapsed()) / 1e6;
    ++ticks_;
    tick_average_ms_ = ticks_ == 1 ? ms : tick_average_ms_ * 0.95 + ms * 0.05;
    if (!session_.busy() && !new_data && !new_time) timer_.stop();
    return ms;
}

// --- Pictures

QStringList MainWindow::viewNames() {
    return {QStringLiteral("library"), QStringLiteral("workload"), QStringLiteral("latency"),
            QStringLiteral("memory"),  QStringLiteral("layout"),   QStringLiteral("playground"),
            QStringLiteral("explore")};
}

void MainWindow::isolate(QWidget* view, bool on) {
    if (!on) {
        for (QWidget* w : hidden_) w->show();
        hidden_.clear();
        return;
    }
    for (QWidget* w = view; w->parentWidget() && w->parentWidget() != pages_; w = w->parentWidget()) {
        auto* s = qobject_cast<QSplitter*>(w->parentWidget());
        for (int i = 0; s && i < s->count(); ++i)
            if (s->widget(i) != w && !s->widget(i)->isHidden()) {
                s->widget(i)->hide();
                hidden_.push_back(s->widget(i));
            }
    }
}

QImage MainWindow::picture(const QString& view, QSize pixels) {
    const double ratio = devicePixelRatioF();
    banner_->hide();  // what was said lately belongs to no view
    resize(int(std::ceil(pixels.width() / ratio)), int(std::ceil(pixels.height() / ratio)));
    const Perspective before = perspective_;
    Panel* panel = nullptr;
    for (Panel* v : views_)
        if (v->id() == view && !panel) panel = v;
    // The layout fills the page that is made for it; in Explore it is a small part.
    setPerspective(view == QLatin1String("playground") ? Perspective::playground
                   : view == QLatin1String("workload") ? Perspective::workload
                   : view == QLatin1String("layout")   ? Perspective::inspect
                                                       : Perspective::explore);
    if (view == QLatin1String("latency") || view == QLatin1String("memory") || view == QLatin1String("library"))
        if (panel) isolate(panel, true);
    // Twice: laying out new sizes comes before drawing into them.
    for (int i = 0; i < 3; ++i) {
        QApplication::sendPostedEvents();
        QApplication::processEvents(QEventLoop::AllEvents, 20);
        for (Panel* v : views_) v->markDirty();
        tick();
    }
    QApplication::processEvents(QEventLoop::AllEvents, 20);
    const QImage grabbed = grab().toImage();
    isolate(nullptr, false);
    setPerspective(before);
    QImage out(pixels, QImage::Format_RGB32);
    out.fill(palette().color(QPalette::Window));
    QPainter p(&out);
    QImage raw = grabbed;
    raw.setDevicePixelRatio(1);
    p.drawImage(0, 0, raw);
    return out;
}

}  // namespace spartan

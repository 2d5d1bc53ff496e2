// The window: model chip, run controls and perspectives above, panels in the middle, the truth in the status bar below.
#pragma once

#include "ui/panel.h"
#include "ui/session.h"
#include "ui/theme.h"

#include <QElapsedTimer>
#include <QMainWindow>
#include <QTimer>

#include <cstdlib>
#include <functional>
#include <map>
#include <vector>

class QMenu;
class QProgressBar;
class QPushButton;
class QSplitter;
class QStackedWidget;
class QToolButton;

namespace spartan {

class Banner;
class DropOverlay;
class LibraryView;
class ModelChip;
class PlaygroundView;
class TimeBar;
class WorkloadView;

enum class Perspective { explore, inspect, playground, workload };

class MainWindow : public QMainWindow {
    Q_OBJECT
public:
    MainWindow(Theme& theme, Session& session, QWidget* parent = nullptr);
    ~MainWindow() override;

    void setPerspective(Perspective perspective);
    Perspective perspective() const { return perspective_; }

    // What --view knows: "library", "workload", "latency", "memory", "layout", "playground", "explore".
    static QStringList viewNames();
    // The window with only that view in its middle ("explore": as it is), exactly `pixels` large.
    QImage picture(const QString& view, QSize pixels);

    LibraryView& libraryView() { return *library_; }
    WorkloadView& workloadView() { return *workload_; }
    PlaygroundView& playgroundView() { return *playground_; }
    Selection& selection() { return selection_; }
    TimeBar& timeBar() { return *time_bar_; }

    void startRun();  // what the Run button does
    void openDemo(bool withModel);
    void runDemo();  // the demo workload, after opening the demo when there is no base
    void offerRecovery();
    // Goes on from what another process of this program left for it (ui/restart.h).
    void restore(const QString& path);
    // How the program is started anew with these arguments; for tests.
    using Restarter = std::function<bool(const QStringList& arguments)>;
    void setRestarter(Restarter restarter) { restarter_ = std::move(restarter); }
    // Ends this process at once, with nothing taken down; for tests to replace.
    void setQuitter(std::function<void()> quitter) { quitter_ = std::move(quitter); }
    void restoreLayout();
    void setAsksBeforeClosing(bool asks) { asks_ = asks; }

    // One tick: takes records, follows time, refreshes visible views; milliseconds spent.
    double tick();
    double averageTickMs() const { return tick_average_ms_; }

public slots:
    void showMessage(const QString& text, bool isError);

protected:
    void closeEvent(QCloseEvent* event) override;
    void dragEnterEvent(QDragEnterEvent* event) override;
    void dragLeaveEvent(QDragLeaveEvent* event) override;
    void dropEvent(QDropEvent* event) override;
    void changeEvent(QEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    void buildTopBar();
    void buildPages();
    void buildStatusBar();
    void buildShortcuts();
    void restyle();
    QWidget* explorePage();
    QWidget* inspectPage();
    Panel* addRunView(const QString& id);
    QSplitter* splitter(Qt::Orientation orientation, const QString& name);
    void fillModelMenu(QMenu& menu);
    void fillMainMenu(QMenu& menu);
    void updateTopBar();
    void updateStatus();
    void updateChip();
    void wake();
    bool mayInterrupt(const QString& what);  // during a run: asks, and stops it on yes
    bool mayForgetWorkload();
    void openModelAsking(const QString& path);
    void unloadAsking();
    void fillDeviceMenu(QMenu& menu);
    void computeOn(const QString& device);
    void askBecauseItWontFit(const QString& path, const QString& dtype, const QString& words);
    void browseModel();
    void browseModelFolder();
    void browseAdapters();
    void generateAdapters();
    void showRecordings();
    void offerStartAgain(const QString& why);
    void restartProgram(const QString& why);
    void tellSilence(bool silent);
    void endAtOnce();
    void keepLayout();
    void stepTheme();
    void setScale(int percent);
    void remember(const QString& list, const QString& item);
    void isolate(QWidget* view, bool on);

    Theme& theme_;
    Session& session_;
    Selection selection_;
    ViewContext context_;
    QTimer timer_;
    QElapsedTimer tick_clock_;
    Perspective perspective_ = Perspective::explore;

    QWidget* top_ = nullptr;
    ModelChip* chip_ = nullptr;
    QPushButton *run_ = nullptr, *pause_ = nullptr, *stop_ = nullptr;
    QWidget* progress_ = nullptr;
    FigureLabel *progress_title_ = nullptr, *progress_text_ = nullptr;
    QProgressBar* progress_bar_ = nullptr;
    QToolButton *cancel_ = nullptr, *menu_button_ = nullptr;
    std::map<Perspective, QPushButton*> perspective_buttons_;
    QStackedWidget* pages_ = nullptr;
    std::map<Perspective, QWidget*> page_of_;
    Banner* banner_ = nullptr;
    TimeBar* time_bar_ = nullptr;
    QWidget* status_ = nullptr;
    FigureLabel *status_left_ = nullptr, *status_right_ = nullptr;
    DropOverlay* overlay_ = nullptr;
    std::vector<QSplitter*> splitters_;
    std::vector<QWidget*> hidden_;  // by isolate()

    std::vector<Panel*> views_;
    LibraryView* library_ = nullptr;
    WorkloadView* workload_ = nullptr;
    PlaygroundView* playground_ = nullptr;

    uint64_t seen_model_ = 0, seen_time_ = 0;
    double tick_average_ms_ = 0;
    int64_t ticks_ = 0;
    bool asks_ = true, run_when_ready_ = false, ran_ = false;
    int64_t run_with_adapters_ = 1;  // ready ones that run_when_ready_ waits for
    bool start_again_ = false;       // somebody asked for it
    Restarter restarter_;
    std::function<void()> quitter_ = [] { std::_Exit(1); };
    QStringList messages_;
};

}  // namespace spartan

// The workload editor: a form on the left, what it will do drawn on the right before anything runs.
#pragma once

#include "core/run/workload.h"
#include "ui/panel.h"
#include "ui/session.h"

#include <QTimer>

#include <functional>
#include <vector>

class QComboBox;
class QCustomPlot;
class QFormLayout;
class QLabel;
class QPushButton;
class QScrollArea;
class QVBoxLayout;

namespace spartan {

// What the editor draws: counts, made in a worker from the plan itself.
struct WorkloadPreview {
    struct Histogram {
        double first = 0, width = 1;
        std::vector<double> counts;
        double max = 0, mean = 0;
    };
    std::string error, error_field;
    int64_t requests = 0;
    double span_s = 0;  // of the arrivals
    bool closed = false;
    int64_t concurrency = 0;
    Histogram arrivals, prompt_tokens, output_tokens;
    std::vector<std::pair<std::string, int64_t>> share;  // by adapter, in order
    int64_t prompt_total = 0, output_total = 0;
};
WorkloadPreview previewOf(const Workload& workload, const std::vector<std::string>& adapter_names);

Workload demoWorkload();   // 64 requests, round robin over the adapters and the base
Workload paperWorkload();  // burst of 512, round robin, 100 tokens out

class WorkloadView : public Panel {
    Q_OBJECT
public:
    explicit WorkloadView(Session& session, QWidget* parent = nullptr);

    void refresh(const RunModel& model, const TimeController& time) override;
    const Workload& workload() const { return workload_; }
    void setWorkload(Workload workload, const QString& what);  // undoable
    bool valid() const { return error_.isEmpty(); }
    const QString& error() const { return error_; }
    void open(const QString& path);    // in a worker; opened() tells the end
    void saveTo(const QString& path);  // likewise saved()
    // What would run or be saved now: the form with the loaded base and the library's adapters.
    Workload resolved() const;
    QString fileName() const { return path_; }
    bool modified() const;  // the form differs from its file, or from the preset when there is none
    QWidget* editor(const QString& field) const;  // "requests", "arrival.rate", …; null: none

public slots:
    void openFile();
    void save();
    void saveAs();

signals:
    void edited();
    void opened(const QString& path, bool ok);
    void saved(const QString& path, bool ok);
    void message(const QString& text, bool isError);

protected:
    void styleChanged() override;

private:
    class EditCommand;
    struct Field {
        QString path;
        QLabel* name;
        QWidget* editor;
        QLabel* error;
        std::function<void()> load;  // workload -> editor
        std::function<bool()> used;  // whether it has an effect now
        QString mistyped;            // why what stands there could not be read; the workload has its old value
    };

    // workload_form.cpp
    void buildForm(QVBoxLayout* form);
    void buildPresets(QVBoxLayout* form);
    void buildRequests(QVBoxLayout* form);
    void buildArrivals(QVBoxLayout* form);
    void buildAdapters(QVBoxLayout* form);
    void buildLengths(QVBoxLayout* form);
    void buildLimits(QVBoxLayout* form);
    void buildAdapterServing();
    void buildEngine();
    void section(QVBoxLayout* form, const QString& title);
    Field& row(const QString& path, const QString& name, const QString& unit, QWidget* editor, const QString& tip);
    template <class Value>  // of any integer member; words_for_min: said instead of the smallest value
    void integer(const QString& path, const QString& name, const QString& unit, int64_t min, int64_t max, Value value,
                 const QString& tip, std::function<bool()> used = {}, const QString& words_for_min = {});
    void megabytes(const QString& path, const QString& name, std::function<int64_t&(Workload&)> bytes,
                   const QString& tip);
    void number(const QString& path, const QString& name, const QString& unit, double min, double max, int decimals,
                std::function<double&(Workload&)> value, const QString& tip, std::function<bool()> used = {});
    void choice(const QString& path, const QString& name, const std::vector<std::pair<QString, QString>>& options,
                std::function<std::string&(Workload&)> value, const QString& tip);
    void choice(const QString& path, const QString& name, const std::vector<std::pair<QString, QString>>& options,
                std::function<QString(const Workload&)> get, std::function<void(Workload&, const QString&)> set,
                const QString& tip);
    void flag(const QString& path, const QString& name, std::function<bool&(Workload&)> value, const QString& tip);
    void text(const QString& path, const QString& name, std::function<QString(const Workload&)> get,
              std::function<bool(Workload&, const QString&)> set, const QString& tip, const QString& placeholder);
    void length(const QString& path, const QString& name, std::function<LengthDistribution&(Workload&)> value);

    void edit(const QString& field, const std::function<void(Workload&)>& change);
    void apply(const Workload& workload);  // into the form, without an undo step
    void check();
    void schedulePreview();
    void updateFacts();
    void showPreview(const WorkloadPreview& preview);
    void setMistyped(const QString& path, const QString& why);
    void setFieldError(const QString& path, const QString& text);

    Session& session_;
    Workload workload_;
    QString path_, error_;
    bool loading_ = false;
    Json saved_;  // what the file or the chosen preset holds
    QPushButton* save_ = nullptr;
    QFormLayout* group_ = nullptr;
    QWidget* form_ = nullptr;
    QVBoxLayout* form_box_ = nullptr;
    QScrollArea* scroll_ = nullptr;
    std::vector<Field> fields_;
    std::vector<QLabel*> sections_, units_;
    QComboBox* presets_ = nullptr;
    QLabel *summary_ = nullptr, *error_label_ = nullptr;
    QCustomPlot *arrivals_ = nullptr, *lengths_ = nullptr, *share_ = nullptr;
    std::vector<QLabel*> plot_titles_;
    QTimer preview_timer_;
    uint64_t preview_request_ = 0;
    QThreadPool pool_;
    WorkloadPreview preview_;
};

}  // namespace spartan

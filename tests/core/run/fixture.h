// Records made by hand, and folders that go away.
#pragma once

#include "core/base/file.h"
#include "core/engine/step_record.h"

#include <QTemporaryDir>
#include <QtTest>

#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace spartan {

struct TempDir {
    QTemporaryDir dir;
    std::string path(const std::string& name = "") const {
        return dir.path().toStdString() + (name.empty() ? "" : "/" + name);
    }
    std::string write(const std::string& name, const std::string& content) const {
        std::ofstream(path(name), std::ios::binary) << content;
        return path(name);
    }
    static std::string read(const std::string& file) {
        std::ifstream in(file, std::ios::binary);
        return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    }
};

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The error is a refusal that says all of `parts`.
template <class T>
bool refused(const Result<T>& result, const std::vector<std::string>& parts) {
    if (result) return false;
    const std::string message = result.error().message();
    for (const std::string& part : parts)
        if (!contains(message, part)) {
            qWarning("%s lacks %s", message.c_str(), part.c_str());
            return false;
        }
    return true;
}

// A run as an engine could have recorded it: `requests` of one repeat, decoded side by side, a token a step.
inline std::vector<StepRecordPtr> made_run(int requests, int tokens, int32_t repeat, int64_t start_us,
                                           uint64_t first_id, int64_t first_step) {
    std::vector<StepRecordPtr> steps;
    std::vector<RequestRecord> records(static_cast<size_t>(requests));
    for (int t = 0; t < tokens; ++t) {
        auto step = std::make_shared<StepRecord>();
        step->step = first_step + t;
        step->start_us = start_us + t * 1000;
        step->end_us = step->start_us + 1000;
        step->pool = {100, 10 + t, 4, 0, 50};
        step->times.products = 700;
        step->bytes.weights = 12345;
        if (t == 0) step->adapter_events.push_back({AdapterId(1), AdapterEvent::Kind::load, 4096, 17});
        for (int i = 0; i < requests; ++i) {
            RequestRecord& r = records[size_t(i)];
            if (t == 0) {
                r.id = RequestId(first_id + uint64_t(i));
                r.adapter = AdapterId(uint32_t(i % 3));
                r.arrival_us = start_us;
                r.first_scheduled_us = start_us + 5;
                r.first_token_us = step->end_us;
                r.prompt_tokens = 10 + i;
                r.origin.repeat = repeat;
                step->arrivals.push_back({r.id, r.adapter, r.arrival_us, r.prompt_tokens, tokens});
            }
            r.last_token_us = step->end_us;
            r.token_us.push_back(step->end_us);
            r.output.push_back(100 + t);
            const bool last = t + 1 == tokens;
            step->rows.push_back({r.id, r.adapter, 1, r.prompt_tokens + t, false, 100 + t,
                                  last ? FinishReason::length : FinishReason::none});
            if (!last) continue;
            r.output_tokens = tokens;
            r.finish = FinishReason::length;
            step->finished.push_back(r);
        }
        steps.push_back(step);
    }
    return steps;
}

}  // namespace spartan

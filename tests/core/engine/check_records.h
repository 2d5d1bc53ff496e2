// What holds for the records of every engine.
#pragma once

#include "fixture.h"

#include <QtTest>

namespace spartan::test {

// What every list of records must satisfy: steps numbered without gaps, page changes that rebuild the pool's counts,
// rows grouped by adapter, tokens in rows equal to the finished outputs.
inline void check_records(const std::vector<StepRecordPtr>& records, bool loads_beside_steps = false) {
    std::map<RequestId, std::vector<Token>> tokens;
    std::vector<std::pair<PageOwner, uint64_t>> pages;
    int64_t step = 0, end_us = 0;
    for (const auto& r : records) {
        QCOMPARE(r->step, step++);
        QVERIFY(r->end_us >= r->start_us && r->end_us >= end_us);
        end_us = r->end_us;
        pages.resize(size_t(r->pool.total_pages));
        for (const auto& c : r->page_changes)
            for (int32_t p = c.first; p < c.first + c.count; ++p) pages[size_t(p)] = {c.owner, c.id};
        int32_t kv = 0, adapter = 0, run = 0, longest = 0;
        for (const auto& [owner, id] : pages) {
            kv += owner == PageOwner::kv;
            adapter += owner == PageOwner::adapter;
            run = owner == PageOwner::free ? run + 1 : 0;
            longest = std::max(longest, run);
        }
        QCOMPARE(kv, r->pool.kv_pages);
        QCOMPARE(adapter, r->pool.adapter_pages);
        QCOMPARE(longest, r->pool.largest_free_run);
        int32_t prefill = 0, decode = 0;
        for (size_t i = 0; i < r->rows.size(); ++i) {
            const StepRow& row = r->rows[i];
            QVERIFY(i == 0 || r->rows[i - 1].adapter <= row.adapter);
            (row.prefill ? prefill : decode) += row.num_tokens;
            if (!row.prefill) QCOMPARE(row.num_tokens, 1);
            if (row.token >= 0) tokens[row.request].push_back(row.token);
        }
        QCOMPARE(prefill, r->prefill_tokens);
        QCOMPARE(decode, r->decode_tokens);
        const StepTimes& t = r->times;
        for (const int64_t us :
             {t.schedule, t.transfer, t.rotate, t.lora, t.products, t.attention, t.other, t.head, t.sample})
            QVERIFY(us >= 0);
        if (r->rows.empty()) QCOMPARE(r->bytes.weights + r->bytes.adapters + r->bytes.kv, int64_t(0));
        if (!r->rows.empty()) {
            const int64_t sum = (loads_beside_steps ? 0 : t.transfer) + t.schedule + t.rotate + t.lora + t.products +
                                t.attention + t.other + t.head + t.sample;
            QVERIFY2(sum <= r->duration_us() + 20, qPrintable(QString("%1 of %2").arg(sum).arg(r->duration_us())));
        }
        for (const RequestRecord& f : r->finished) {
            QCOMPARE(f.output, tokens[f.id]);
            QCOMPARE(f.output.size(), f.token_us.size());
            QCOMPARE(int32_t(f.output.size()), f.output_tokens);
            QVERIFY(f.first_scheduled_us < 0 || f.queue_us() >= 0);
            QVERIFY(f.first_token_us < 0 || (f.ttft_us() >= f.queue_us() && f.e2e_us() >= f.ttft_us()));
        }
    }
}

}  // namespace spartan::test

#include "tests/core/adapter/peft_fixture.h"

#include <QDir>
#include <QtTest>

#include <numeric>

using namespace spartan;

namespace {

SyntheticSpec parsed(const std::string& text) {
    const auto spec = parse_synthetic_spec(text);
    if (!spec) qFatal("%s", spec.error().message().c_str());
    return *spec;
}

template <class T>
std::string message_of(const Result<T>& result) {
    return result ? "" : result.error().message();
}

}  // namespace

class SyntheticTest : public QObject {
    Q_OBJECT
private slots:
    void specs_and_names() {
        const SyntheticSpec boft = parsed("synthetic:boft:12:b=16,m=2,b=32,m=1,b=8");
        QVERIFY(boft.kind == AdapterKind::boft);
        QCOMPARE(boft.count, 12);
        QCOMPARE(boft.sizes.size(), 3);
        QCOMPARE(boft.sizes[0].m, 2);
        QCOMPARE(boft.sizes[2].m, 1);
        QCOMPARE(synthetic_name(boft, 0, 0), std::string("boft-b16-m2-0000"));
        QCOMPARE(synthetic_name(boft, 4, 17), std::string("boft-b32-m1-0017"));
        QCOMPARE(synthetic_name(boft, 2, 12345), std::string("boft-b8-m1-12345"));
        QCOMPARE(synthetic_name(parsed("synthetic:lora:2:r=8"), 1, 1), std::string("lora-r8-0001"));
        QCOMPARE(synthetic_name(parsed("synthetic:oft:2:b=32"), 0, 3), std::string("oft-b32-0003"));
    }

    void bad_specs() {
        const std::pair<const char*, const char*> cases[] = {
            {"synthetic:boft:2", "KIND:COUNT:SIZES"},
            {"synthetic:boft:2:b=4:x", "KIND:COUNT:SIZES"},
            {"synthetic:dora:2:r=4", "KIND"},
            {"synthetic::2:r=4", "KIND"},
            {"synthetic:boft:0:b=4", "COUNT"},
            {"synthetic:boft:-1:b=4", "COUNT"},
            {"synthetic:boft:1e3:b=4", "COUNT"},
            {"synthetic:boft:99999999999999999999:b=4", "COUNT"},
            {"synthetic:boft:2:", "SIZES"},
            {"synthetic:boft:2:m=2", "SIZES"},
            {"synthetic:boft:2:b=4,m=2,m=3", "SIZES"},
            {"synthetic:boft:2:b=4,m=99", "SIZES"},
            {"synthetic:boft:2:b=1", "SIZES"},
            {"synthetic:boft:2:b=", "SIZES"},
            {"synthetic:boft:2:b=4,", "SIZES"},
            {"synthetic:boft:2:r=4", "SIZES"},
            {"synthetic:oft:2:b=4,m=1", "SIZES"},
            {"synthetic:lora:2:b=4", "SIZES"},
            {"synthetic:lora:2:r=0", "SIZES"},
        };
        for (const auto& [text, field] : cases) {
            const auto spec = parse_synthetic_spec(text);
            QVERIFY2(!spec, text);
            QVERIFY2(spec.error().message().find(field) != std::string::npos, spec.error().message().c_str());
        }
    }

    void sizes_that_do_not_fit() {
        const Model model = tiny_model();
        const auto made = [&](const char* text) {
            return message_of(make_synthetic_adapter(parsed(text), 0, 0, 42, model));
        };
        QVERIFY(made("synthetic:boft:1:b=5").find("b=5 does not divide 48") != std::string::npos);
        QVERIFY(made("synthetic:oft:1:b=12").find("b=12 does not divide 32") != std::string::npos);  // o_proj
        QVERIFY(made("synthetic:boft:1:b=16,m=3").find("groups of 64") != std::string::npos);
        QVERIFY(made("synthetic:lora:1:r=49").find("r=49 is larger than 48") != std::string::npos);
        QCOMPARE(made("synthetic:boft:1:b=8,m=2"), std::string());
        QTemporaryDir dir;
        const std::string out = dir.path().toStdString() + "/new";
        QVERIFY(!write_synthetic_adapter(parsed("synthetic:boft:1:b=5"), 0, 0, 42, tiny_config(), "tiny", out));
        QVERIFY(!QDir(QString::fromStdString(out)).exists());  // a refusal creates nothing
    }

    void written_folders_load_as_the_same_adapter_data() {
        QTest::addColumn<QString>("spec");
        QTest::addColumn<int>("dtype");
        for (const char* spec :
             {"synthetic:boft:3:b=8,m=2,b=16,m=1,b=4,m=3", "synthetic:oft:3:b=8,b=16", "synthetic:lora:3:r=4,r=7"})
            for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
                QTest::newRow(qPrintable(QString("%1 %2").arg(spec, name_of(dtype)))) << QString(spec) << int(dtype);
    }
    void written_folders_load_as_the_same_adapter() {
        QFETCH(QString, spec);
        QFETCH(int, dtype);
        const Model model = tiny_model(DType(dtype));
        const SyntheticSpec s = parsed(spec.toStdString());
        for (int64_t i = 0; i < s.count; ++i) {
            const auto made = make_synthetic_adapter(s, i, 5 + i, 42, model);
            QVERIFY2(made, message_of(made).c_str());
            QTemporaryDir dir;
            const auto written =
                write_synthetic_adapter(s, i, 5 + i, 42, tiny_config(), "tiny", dir.path().toStdString());
            QVERIFY2(written, message_of(written).c_str());
            Progress progress;
            const auto loaded = load_adapter("a", dir.path().toStdString(), model, progress);
            QVERIFY2(loaded, message_of(loaded).c_str());
            QVERIFY((*loaded)->blob == (*made)->blob);
            QCOMPARE((*loaded)->geometry(), (*made)->geometry());
            QCOMPARE((*made)->targets(), std::string("q k v o"));
            QVERIFY((*loaded)->warnings.empty());
            QVERIFY((*made)->orthogonality_error < 1e-10);
            const auto refused =
                write_synthetic_adapter(s, i, 5 + i, 42, tiny_config(), "tiny", dir.path().toStdString());
            QVERIFY(!refused);
            QVERIFY(refused.error().message().find("not empty") != std::string::npos);
        }
    }

    void weights_follow_seed_and_index_alone() {
        const Model model = tiny_model();
        const SyntheticSpec one = parsed("synthetic:boft:1:b=8"), many = parsed("synthetic:boft:9:b=16,b=8");
        const auto a = make_synthetic_adapter(one, 0, 3, 42, model), b = make_synthetic_adapter(many, 1, 3, 42, model);
        const auto other_index = make_synthetic_adapter(one, 0, 4, 42, model),
                   other_seed = make_synthetic_adapter(one, 0, 3, 43, model);
        QVERIFY(a && b && other_index && other_seed);
        QVERIFY((*a)->blob == (*b)->blob);
        QCOMPARE((*a)->content_hash, (*b)->content_hash);
        QVERIFY((*a)->blob != (*other_index)->blob && (*a)->content_hash != (*other_index)->content_hash);
        QVERIFY((*a)->blob != (*other_seed)->blob && (*a)->content_hash != (*other_seed)->content_hash);
    }

    // Other answers, still sane: each projection moves by a few to some thirty percent.
    void size_of_the_change() {
        const Model model = tiny_model();
        for (const char* text :
             {"synthetic:boft:1:b=8,m=2", "synthetic:boft:1:b=4", "synthetic:oft:1:b=16", "synthetic:lora:1:r=8"}) {
            const auto made = make_synthetic_adapter(parsed(text), 0, 0, 42, model);
            QVERIFY(made);
            double change = 0, size = 0;
            for (const AdapterPart& part : (*made)->parts) {
                const oracle::Vec x = test_input(part.in);
                const oracle::Vec y = apply_part(**made, part, model, x);
                oracle::Vec base = oracle::matrix_times(base_weight(model, part.layer, part.projection), x);
                const auto bias = base_bias(model, part.layer, part.projection);
                for (size_t n = 0; n < y.size(); ++n) {
                    if (!bias.empty()) base[n] += double(bias[n]);
                    change += (y[n] - base[n]) * (y[n] - base[n]);
                    size += base[n] * base[n];
                }
            }
            const double share = std::sqrt(change / size);
            QVERIFY2(share > 0.01 && share < 0.5, (std::string(text) + " " + std::to_string(share)).c_str());
        }
    }

    void arguments() {
        const auto requests = parse_adapter_arguments(
            {"synthetic:boft:2:b=8", "mine=sub/dir", "abs=/x/y", "synthetic:lora:1:r=4"}, "/base");
        QVERIFY2(requests, message_of(requests).c_str());
        QCOMPARE(requests->size(), 5);
        QCOMPARE((*requests)[1].name, std::string("boft-b8-m1-0001"));
        QCOMPARE((*requests)[2].dir, std::string("/base/sub/dir"));
        QCOMPARE((*requests)[3].dir, std::string("/x/y"));
        QCOMPARE((*requests)[4].name, std::string("lora-r4-0002"));
        QCOMPARE((*requests)[4].global_index, 2);
        QCOMPARE((*requests)[4].index_in_spec, 0);
        const std::pair<std::vector<std::string>, const char*> bad[] = {
            {{"dir"}, "NAME=DIR"},           {{"a="}, "NAME=DIR"},
            {{"=dir"}, "an empty name"},     {{"a/b=dir"}, "a/b"},
            {{"a=x", "a=y"}, "\"a\" twice"}, {{"synthetic:boft:2:b=8", "boft-b8-m1-0001=x"}, "twice"}};
        for (const auto& [list, word] : bad) {
            const auto result = parse_adapter_arguments(list, "");
            QVERIFY(!result);
            QVERIFY2(result.error().message().find(word) != std::string::npos, result.error().message().c_str());
        }
        const Model model = tiny_model();
        Progress progress;
        const auto loaded = load_adapter((*requests)[1], model, 42, progress);
        const auto made = make_synthetic_adapter(parsed("synthetic:boft:2:b=8"), 1, 1, 42, model);
        QVERIFY(loaded && made);
        QVERIFY((*loaded)->blob == (*made)->blob);
    }
};

QTEST_GUILESS_MAIN(SyntheticTest)
#include "synthetic_test.moc"
